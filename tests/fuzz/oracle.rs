//! What the contract says of a message, found out by other means than the worker's: the schemas that it publishes, and
//! straightforward code for what schemas cannot say.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use jsonschema::Validator;
use serde_json::{Map, Value};

use super::input::{Input, Way};
use super::verdict::{ADMIN, NOW, READER};

/// `(field, reason)`
pub type Fault = (&'static str, &'static str);

/// Every payload's schema by the message's name.
pub struct Schemas(BTreeMap<String, Validator>);

impl Schemas {
    pub fn load(folder: &str) -> Self {
        let path = format!("{}/schemas/{folder}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(path).expect("the schemas");
        let schema = |file: std::fs::DirEntry| {
            let name = file.file_name().to_string_lossy().trim_end_matches(".json").to_owned();
            let text = std::fs::read(file.path()).expect("a schema");
            let schema: Value = serde_json::from_slice(&text).expect("JSON");
            (name, jsonschema::validator_for(&schema).expect("a schema"))
        };
        Self(files.flatten().map(schema).collect())
    }

    pub fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Whether a payload is what the message takes; `None` where the schema cannot tell.
    pub fn takes(&self, name: &str, payload: &Map<String, Value>) -> Option<bool> {
        let schema = self.0.get(name)?;
        let undecided = payload.values().any(Value::is_f64) || payload.contains_key("cursor");
        if undecided {
            // JSON Schema calls 1.0 an integer; what a cursor holds is the worker's own affair.
            return None;
        }
        let valid = schema.is_valid(&Value::Object(payload.clone()));
        Some(valid && payload.iter().all(|(field, value)| fits(field, value)) && sane(name, payload))
    }
}

/// What no schema says of one field.
fn fits(field: &str, value: &Value) -> bool {
    match (field, value) {
        ("password" | "new_password", Value::String(text)) => {
            !text.contains('\0') && (8..=1024).contains(&text.len())
        }
        ("current_password", Value::String(text)) => !text.contains('\0') && text.len() <= 1024,
        ("id" | "user_id" | "session_id" | "subject", Value::String(text)) => is_uuid(text),
        (_, Value::String(text)) => !text.chars().any(char::is_control),
        (_, Value::Number(number)) => number.is_i64(),
        _ => true,
    }
}

/// What no schema says of fields together.
fn sane(name: &str, payload: &Map<String, Value>) -> bool {
    match name {
        "user.get.v1" => payload.values().filter(|value| !value.is_null()).count() == 1,
        _ => true,
    }
}

/// Hyphens where they belong, hexadecimal digits elsewhere.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A payload as it will be understood: names and addresses are trimmed, addresses and ids are in lower case.
pub fn understood(payload: &Map<String, Value>) -> Map<String, Value> {
    payload
        .iter()
        .map(|(field, value)| {
            let value = match (field.as_str(), value) {
                ("email", Value::String(text)) => trimmed(text).to_ascii_lowercase().into(),
                ("name", Value::String(text)) => trimmed(text).into(),
                ("id" | "user_id" | "session_id" | "subject", Value::String(text)) => {
                    text.to_ascii_lowercase().into()
                }
                (_, value) => value.clone(),
            };
            (field.clone(), value)
        })
        .collect()
}

/// Control characters are blanks to `trim`, and not to be taken for such.
fn trimmed(text: &str) -> &str {
    if text.chars().any(char::is_control) { text } else { text.trim() }
}

/// The body as one object without duplicate keys, at any depth.
pub fn object(body: &[u8]) -> Option<Map<String, Value>> {
    let Value::Object(map) = serde_json::from_slice(body).ok()? else { return None };
    let text = std::str::from_utf8(body).ok()?;
    // Parsing drops a duplicate; so does counting show one.
    (keys_in(text) == keys_of_object(&map)).then_some(map)
}

fn keys_of_object(map: &Map<String, Value>) -> usize {
    map.len() + map.values().map(keys_of).sum::<usize>()
}

fn keys_of(value: &Value) -> usize {
    match value {
        Value::Object(map) => keys_of_object(map),
        Value::Array(list) => list.iter().map(keys_of).sum(),
        _ => 0,
    }
}

/// How many colons stand outside the strings of a JSON text: one to a key.
fn keys_in(text: &str) -> usize {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b':' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

/// Whether a string of the body may hold half of a surrogate pair: the worker takes it for U+0000, which others do not.
pub fn has_surrogate(body: &[u8]) -> bool {
    body.windows(3).any(|at| matches!(at, [b'\\', b'u', b'd' | b'D']))
}

/// What is wrong with the properties that every message of its kind has; `type` and `content_type` aside.
pub fn envelope(input: &Input) -> BTreeSet<Fault> {
    let mut faults = BTreeSet::new();
    if matches!(input.headers.get("deadline"), Some(value) if !value.is_null()) && deadline(input).is_none() {
        faults.insert(("deadline", "invalid_value"));
    }
    match (input.way, input.message_id.as_deref()) {
        (Way::Query, None) => {}
        (Way::Query, Some(text)) if is_uuid(text) => {}
        (Way::Query, Some(_)) => drop(faults.insert(("message_id", "invalid_uuid"))),
        (_, None | Some("")) => drop(faults.insert(("message_id", "missing_message_id"))),
        (_, Some(text)) if !is_uuid(text) => drop(faults.insert(("message_id", "invalid_uuid"))),
        (_, Some(text)) => match (millis(text), input.timestamp) {
            (Some(millis), _) if millis <= (NOW + 600) * 1000 => {}
            (Some(_), _) => drop(faults.insert(("message_id", "invalid_value"))),
            (None, Some(seconds)) if seconds <= (NOW + 600).unsigned_abs() => {}
            (None, Some(_)) => drop(faults.insert(("timestamp", "invalid_value"))),
            (None, None) => drop(faults.insert(("timestamp", "missing"))),
        },
    }
    faults
}

/// The milliseconds in a UUIDv7: its first 12 hexadecimal digits.
fn millis(uuid: &str) -> Option<i64> {
    if uuid.as_bytes().get(14) != Some(&b'7') {
        return None;
    }
    i64::from_str_radix(&format!("{}{}", &uuid[..8], &uuid[9..13]), 16).ok()
}

/// The day of a message's own time.
pub fn day(input: &Input) -> Option<String> {
    let text = input.message_id.as_deref().filter(|text| is_uuid(text))?;
    let seconds = match millis(text) {
        Some(millis) => millis.div_euclid(1000),
        None => i64::try_from(input.timestamp?).ok()?,
    };
    Some(DateTime::from_timestamp(seconds, 0)?.format("%Y-%m-%d").to_string())
}

/// The text of a header, short or long.
pub fn text<'a>(input: &'a Input, header: &str) -> Option<&'a str> {
    match input.headers.get(header)? {
        Value::String(text) => Some(text),
        Value::Object(map) => map.get("short").filter(|_| map.len() == 1)?.as_str(),
        _ => None,
    }
}

pub fn deadline(input: &Input) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text(input, "deadline")?).ok().map(|time| time.to_utc())
}

/// `application/json`, with nothing beside it but what JSON is anyway.
pub fn is_json(content_type: &str) -> bool {
    let bare: String =
        content_type.to_ascii_lowercase().split(';').map(str::trim).collect::<Vec<_>>().join(";");
    let rest = bare.strip_prefix("application/json");
    rest.is_some_and(|rest| rest.split(";charset=utf-8").all(str::is_empty))
}

/// Where a reply may go, from the contract's list.
pub fn may_reply(name: &str) -> bool {
    let starts = ["amq.gen-", "amq.rabbitmq.reply-to.", "reply."];
    name == "amq.rabbitmq.reply-to" || starts.iter().any(|start| name.starts_with(start))
}

/// Who may send what, from the contract's tables: the code of the refusal.
pub fn access(input: &Input, name: &str, payload: &Map<String, Value>) -> Option<&'static str> {
    let admin = input.user_id.as_deref() == Some(ADMIN);
    let reader = input.user_id.as_deref() == Some(READER);
    let allowed = match (input.way, name) {
        (Way::Query, _) => admin || reader,
        (_, "user.create.v1") => admin || payload.get("role").and_then(Value::as_str) != Some("admin"),
        _ => admin,
    };
    match allowed {
        true => None,
        false if reader => Some("FORBIDDEN"),
        false => Some("UNAUTHORIZED"),
    }
}
