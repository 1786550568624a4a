//! Makes a new message of old ones: by its structure (properties, headers, fields and how JSON writes them) and byte
//! by byte. The same dice give the same message.

use serde_json::{Map, Value, json};

use super::check::{self, COMMANDS, QUERIES, SECRET};
use super::input::{Input, Way};
use super::verdict::NOW;

/// A small generator (splitmix64), so that a seed means the same with every version of every crate.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `below`, without it; 0 where that is 0.
    pub fn below(&mut self, below: usize) -> usize {
        let below = u64::try_from(below).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % below).unwrap_or(0)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

const EMAILS: [&str; 12] = [
    "ada@example.com",
    " Ada@Example.COM ",
    "a@b",
    "",
    "@",
    "a@@b",
    "a@b@c",
    "é@example.com",
    "a b@c",
    "a@-b.c",
    "a@b..c",
    "a\u{7f}@b.c",
];
const NAMES: [&str; 12] = [
    "Ada",
    " Ada Lovelace ",
    "A",
    "  A  ",
    "",
    "日本",
    "\u{0}\u{0}",
    "Ada\u{85}",
    "\u{feff}Ada",
    "\u{2028}Ada",
    "e\u{301}e\u{301}",
    "\u{1f469}\u{200d}\u{1f680}",
];
const WORDS: [&str; 14] = [
    "user",
    "admin",
    "User",
    "root",
    "asc",
    "desc",
    "created_at",
    "updated_at",
    "email",
    "name",
    "null",
    "true",
    "1",
    "\u{0}",
];
const FIELDS: [&str; 30] = [
    "id",
    "email",
    "name",
    "password",
    "role",
    "new_password",
    "current_password",
    "expected_version",
    "page",
    "per_page",
    "sort",
    "order",
    "search",
    "cursor",
    "total",
    "subject",
    "after_sequence",
    "limit",
    "user_id",
    "session_id",
    "hash",
    "prepared",
    "opened",
    "",
    "ID",
    "id ",
    "\u{0}",
    "__proto__",
    "\u{202e}email",
    "type",
];
const IDS: [&str; 12] = [
    "01934f2e-0000-7000-8000-000000000001",
    "01934F2E-0000-7000-8000-0000000000AB",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "5f0c2f2e-1b1a-4c7e-9d3a-2b6f5a7c8d9e",
    "{01934f2e-0000-7000-8000-00000000000}",
    "01934f2e000070008000000000000001",
    "order-7",
    "",
    "01934f2e-0000-7000-8000-00000000000g",
    "0193-4f2e0000-7000-8000-000000000001",
];
const REPLIES: [&str; 14] = [
    "amq.rabbitmq.reply-to",
    "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAx.x==",
    "amq.gen-Xyz",
    "reply.billing",
    "reply.",
    "reply",
    "roster.commands",
    "roster.dead",
    "amq.gen-",
    "",
    "*",
    "Reply.x",
    "amq.rabbitmq.reply-to ",
    "\u{0}reply.x",
];
const CONTENT: [&str; 10] = [
    "application/json",
    "Application/JSON",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-8 ",
    "application/json;charset=latin1",
    "text/plain",
    "",
    "application/json;",
    ";application/json",
    "application/jsonx",
];
const TIMES: [&str; 14] = [
    "2026-11-21T12:00:00Z",
    "2026-11-21T13:00:00+02:00",
    "2020-02-02T02:02:02Z",
    "2030-01-01T00:00:00.123456789Z",
    "tomorrow",
    "",
    "2026-11-21 12:00:00Z",
    "2026-02-30T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "0000-01-01T00:00:00+23:59",
    "2026-11-21T12:00:60Z",
    "+262142-12-31T23:59:59Z",
    "2026-11-21T12:00:00",
    "2026-11-21T12:00:00Z\u{0}",
];
const TRACES: [&str; 8] = [
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    "é",
    "",
    "\r\n",
];
const NUMBERS: [&str; 18] = [
    "0",
    "1",
    "-1",
    "-0",
    "1.0",
    "1e0",
    "0.1",
    "1e309",
    "1e-400",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "100",
    "101",
    "10000000000",
    "10000000001",
];
const BYTES: [&[u8]; 20] = [
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\0",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b"\\ud83d\\ude00",
    b"\\",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"1e999",
    b"\\u",
];

/// A message made of one of `pool`, with pieces of another; mostly of the first `good` ones, because what was bent
/// before is rarely accepted.
pub fn mutant(dice: &mut Dice, pool: &[Input], good: usize) -> Input {
    let among = if dice.one_in(3) { pool.len() } else { good };
    let mut choice = &pool[dice.below(among)];
    // Large ones take a hundred times as long.
    while choice.body.len() > 4_096 && !dice.one_in(200) {
        choice = &pool[dice.below(among)];
    }
    let mut input = choice.clone();
    (input.name, input.expect) = (String::new(), String::new());
    for _ in 0..=[0, 0, 1, 3][dice.below(4)] {
        match dice.below(10) {
            0..4 => fields(dice, &mut input),
            4..7 => properties(dice, &mut input),
            7 => bytes(dice, &mut input.body),
            8 => {
                let other = &pool[dice.below(pool.len())];
                if other.body.len() <= 4_096 {
                    splice(dice, &mut input, other);
                }
            }
            _ => spelling(dice, &mut input),
        }
    }
    if dice.one_in(5_000) {
        swell(dice, &mut input.body);
    }
    input.fit()
}

/// Changes what the payload says.
fn fields(dice: &mut Dice, input: &mut Input) {
    let Some(mut map) = check::payload(input) else { return bytes(dice, &mut input.body) };
    let keys: Vec<String> = map.keys().cloned().collect();
    let key = keys.get(dice.below(keys.len())).cloned().unwrap_or_default();
    match dice.below(8) {
        0 => drop(map.remove(&key)),
        1 => drop(map.insert(dice.pick(&FIELDS).to_owned(), value(dice, &key))),
        2 => {
            let other = keys.get(dice.below(keys.len())).cloned().unwrap_or_default();
            let (one, two) = (map.get(&key).cloned(), map.get(&other).cloned());
            map.insert(key, two.unwrap_or_default());
            map.insert(other, one.unwrap_or_default());
        }
        3 => {
            let moved = map.remove(&key).unwrap_or_default();
            map.insert(dice.pick(&FIELDS).to_owned(), moved);
        }
        _ => drop(map.insert(key.clone(), value(dice, &key))),
    }
    input.body = Value::Object(map).to_string().into_bytes();
}

/// A value for a field: mostly one of its kind.
fn value(dice: &mut Dice, key: &str) -> Value {
    let fitting = dice.below(4) > 0;
    match key {
        "id" | "subject" if fitting => dice.pick(&IDS).into(),
        "email" if fitting => text(dice, &EMAILS, 254),
        "name" | "search" if fitting => text(dice, &NAMES, 100),
        "password" | "new_password" | "current_password" if fitting => password(dice),
        "cursor" if fitting => cursor(dice),
        "page" | "per_page" | "limit" | "expected_version" | "after_sequence" if fitting => number(dice),
        _ => match dice.below(9) {
            0 => Value::Null,
            1 => dice.one_in(2).into(),
            2 => number(dice),
            3 => json!([]),
            4 => json!({ "id": "x", "password": SECRET }),
            5 => dice.pick(&WORDS).into(),
            6 => password(dice),
            7 => text(dice, &NAMES, 100),
            _ => dice.pick(&WORDS).into(),
        },
    }
}

fn number(dice: &mut Dice) -> Value {
    let text = dice.pick(&NUMBERS);
    serde_json::from_str(text).unwrap_or_else(|_| i64::from(dice.next() as u32).into())
}

/// One of a few, or as long as a limit, give or take one.
fn text(dice: &mut Dice, few: &[&str], limit: usize) -> Value {
    if !dice.one_in(6) {
        return dice.pick(few).into();
    }
    let unit = ["a", "é", "😀", " "][dice.below(4)];
    unit.repeat(limit + dice.below(3) - 1).into()
}

fn password(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 => "".into(),
        1 => "1234567".into(),
        2 => format!("{SECRET}\u{0}").into(),
        3 => format!("{SECRET}\u{1b}").into(),
        4 => format!("{SECRET}{}", "x".repeat(1024 - SECRET.len() + dice.below(3) - 1)).into(),
        5 => format!("{SECRET}{}", "é".repeat(507 + dice.below(3))).into(),
        _ => format!("{SECRET} horse").into(),
    }
}

/// A page's cursor, or nearly one: the hexadecimal digits of its JSON.
fn cursor(dice: &mut Dice) -> Value {
    let mut cursor = json!({
        "s": dice.pick(&["created_at", "updated_at", "email", "name"]),
        "o": dice.pick(&["asc", "desc"]),
        "r": null,
        "q": null,
        "a": { "t": dice.pick(&TIMES) },
        "i": dice.pick(&IDS[..2]),
    });
    match dice.below(6) {
        0 => cursor["a"] = json!({ "w": dice.pick(&NAMES) }),
        1 => cursor["q"] = dice.pick(&NAMES).into(),
        2 => cursor["r"] = dice.pick(&WORDS).into(),
        3 => cursor["i"] = dice.pick(&IDS).into(),
        4 => cursor["a"] = Value::Null,
        _ => {}
    }
    let mut hex: String = cursor.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
    match dice.below(6) {
        0 => hex.truncate(dice.below(hex.len())),
        1 => hex.make_ascii_uppercase(),
        2 => hex.push('é'),
        _ => {}
    }
    hex.into()
}

/// Changes one property or header.
fn properties(dice: &mut Dice, input: &mut Input) {
    let gone = dice.one_in(5);
    let some = |text: String| (!gone).then_some(text);
    match dice.below(14) {
        0 => {
            let names: Vec<&str> =
                COMMANDS.iter().map(|pair| pair.0).chain(QUERIES.iter().map(|pair| pair.0)).collect();
            let mut name = dice.pick(&names).to_owned();
            match dice.below(12) {
                0 => name = name.replace("v1", "v2"),
                1 => name.push(' '),
                2 => name.make_ascii_uppercase(),
                3 => name.clear(),
                4 => name.insert(dice.below(name.len()), '\u{0}'),
                _ => {}
            }
            input.kind = some(name);
        }
        1 => input.way = [Way::Command, Way::Command, Way::Query, Way::Parked][dice.below(4)],
        2 => input.message_id = some(dice.pick(&IDS).to_owned()),
        3 => {
            let ahead = [0, 599_999, 600_000, 600_001, -86_400_000, i64::MAX / 4][dice.below(6)];
            let millis = u64::try_from(NOW * 1000 + ahead).unwrap_or(0) & 0xffff_ffff_ffff;
            let hex = format!("{millis:012x}");
            input.message_id = some(format!("{}-{}-7abc-8def-0123456789ab", &hex[..8], &hex[8..]));
        }
        4 => {
            let times = [
                0,
                NOW.unsigned_abs(),
                1,
                NOW.unsigned_abs() + 600,
                NOW.unsigned_abs() + 601,
                u64::MAX,
                1 << 62,
                1 << 63,
            ];
            input.timestamp = (!gone).then(|| times[dice.below(times.len())]);
        }
        5 => input.reply_to = some(dice.pick(&REPLIES).to_owned()),
        6 => input.content_type = some(dice.pick(&CONTENT).to_owned()),
        7 => {
            input.user_id =
                some(dice.pick(&["backoffice", "reporting", "guest", "", "Backoffice"]).to_owned())
        }
        8 => {
            input.correlation_id = some(["", "c-1", "\u{0}", "é"][dice.below(4)].repeat(1 + dice.below(130)))
        }
        9 => header(dice, input, "deadline", &TIMES),
        10 => header(dice, input, "traceparent", &TRACES),
        11 => header(dice, input, "tracestate", &TRACES),
        12 => {
            header(dice, input, "authorization", &["Bearer s3cr3t zq9", "s3cr3t zq9", "", "Basic s3cr3t zq9"])
        }
        _ => {
            let death =
                json!([{ "reason": dice.pick(&["expired", "delivery_limit", "rejected", ""]), "count": 1 }]);
            let (name, value) =
                if dice.one_in(2) { ("x-death", death) } else { ("x-delivery-count", number(dice)) };
            input.headers.insert(name.to_owned(), value);
        }
    }
}

/// Sets a header to one of a few texts, or to something else than a text.
fn header(dice: &mut Dice, input: &mut Input, name: &str, few: &[&str]) {
    let text = dice.pick(few);
    let value = match dice.below(14) {
        0 => Value::Null,
        1 => number(dice),
        2 => json!({ "short": text }),
        3 => json!({ "bytes": "ff00c3" }),
        4 => json!([text]),
        5 => json!({ "a": { "b": [text, 1.5, null] } }),
        6 => text.repeat(200).into(),
        7 => return drop(input.headers.remove(name)),
        _ => text.into(),
    };
    input.headers.insert(name.to_owned(), value);
}

/// Spoils the body byte by byte.
fn bytes(dice: &mut Dice, body: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(body.len() + 1);
        let end = (at + 1 + dice.below(8)).min(body.len());
        match dice.below(7) {
            0 if at < body.len() => body[at] ^= 1 << dice.below(8),
            1 if at < body.len() => body[at] = dice.next().to_le_bytes()[0],
            2 if at < end => drop(body.drain(at..end)),
            3 => body.truncate(at),
            4 if at < end => {
                let piece = body[at..end].to_vec();
                drop(body.splice(at..at, piece));
            }
            _ => drop(body.splice(at..at, dice.pick(&BYTES).iter().copied())),
        }
    }
}

/// Takes something of another message.
fn splice(dice: &mut Dice, input: &mut Input, other: &Input) {
    match dice.below(5) {
        0 => input.body.clone_from(&other.body),
        1 => {
            let cut = input.body.len().min(dice.below(input.body.len() + 1));
            input.body.truncate(cut);
            input.body.extend_from_slice(&other.body[dice.below(other.body.len() + 1)..]);
        }
        2 => {
            let (Some(mut map), Some(more)) = (check::payload(input), check::payload(other)) else { return };
            map.extend(more);
            input.body = Value::Object(map).to_string().into_bytes();
        }
        3 => input.headers.clone_from(&other.headers),
        _ => {
            input.kind.clone_from(&other.kind);
            input.way = other.way;
        }
    }
}

/// Says the same, or nearly, in other characters: blanks, escapes, another order, a key twice, something after it.
fn spelling(dice: &mut Dice, input: &mut Input) {
    let Some(map) = check::payload(input) else { return bytes(dice, &mut input.body) };
    match dice.below(6) {
        0 => input.body = written(dice, &map, true).into_bytes(),
        1 => {
            let mut text = written(dice, &map, false);
            let key = map.keys().next().cloned().unwrap_or_default();
            text.insert_str(1, &format!("{}:{},", escaped(dice, &key), value(dice, &key)));
            input.body = text.into_bytes();
        }
        2 => {
            let number = dice.pick(&NUMBERS);
            let mut text = written(dice, &map, false);
            text.insert_str(
                1,
                &format!("\"expected_version\":{number}{}", if map.is_empty() { "" } else { "," }),
            );
            input.body = text.into_bytes();
        }
        3 => drop(input.body.splice(0..0, dice.pick(&BYTES).iter().copied())),
        4 => input.body.extend_from_slice(dice.pick(&BYTES)),
        _ => input.body = serde_json::to_vec_pretty(&map).unwrap_or_default(),
    }
}

fn written(dice: &mut Dice, map: &Map<String, Value>, blanks: bool) -> String {
    let mut text = "{".to_owned();
    let mut fields: Vec<_> = map.iter().collect();
    let turn = dice.below(fields.len());
    fields.rotate_left(turn);
    for (n, (key, value)) in fields.into_iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        if blanks {
            text.push_str(["", " ", "\n\t", "\r\n"][dice.below(4)]);
        }
        text.push_str(&escaped(dice, key));
        text.push(':');
        match value {
            Value::String(value) => text.push_str(&escaped(dice, value)),
            value => text.push_str(&value.to_string()),
        }
    }
    text.push('}');
    text
}

/// A JSON string with some characters escaped that need not be.
fn escaped(dice: &mut Dice, text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        if letter.is_control() || matches!(letter, '"' | '\\') || dice.one_in(8) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(letter);
        }
    }
    out.push('"');
    out
}

/// Makes the body large, deep or both.
fn swell(dice: &mut Dice, body: &mut Vec<u8>) {
    let unit: &[u8] =
        dice.pick(&[b"[".as_slice(), b"{\"a\":", b" ", b"\"\\ud800", b"\\ud800", b"1", b"\xe9", b"\"a\":1,"]);
    let times = [100, 127, 128, 129, 1_000, 10_000, 65_536][dice.below(7)];
    let at = dice.below(body.len() + 1);
    let swollen = unit.repeat(times);
    drop(body.splice(at..at, swollen));
}
