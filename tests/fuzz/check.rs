//! What must hold of every verdict.

use std::collections::BTreeSet;
use std::fmt;

use roster::application::command::{ChangePassword, ChangeRole, CreateUser, DeleteUser, UpdateUser};
use roster::application::decide::error_body;
use roster::application::error::{Detail, Refusal};
use roster::application::fields::Fields;
use roster::application::json;
use roster::application::kept::KeptReason;
use roster::application::message::{Message, Properties};
use roster::application::query::{GetUser, ListEvents, ListUsers};
use roster::application::task::{Task, Work};
use serde_json::{Map, Value};

use super::input::{Input, Way};
use super::oracle::{self, Fault, Schemas};
use super::verdict::{ADMIN, Decoder, READER, Verdict};

/// Stands in every password and token of the corpus, and must stand in no answer. No address, name of a queue or id
/// can hold it.
pub const SECRET: &str = "s3cr3t zq9";

/// A payload written out again after it was read; an error says why it could not be read.
type Rewrite = fn(&[u8]) -> Result<Value, String>;

pub const COMMANDS: [(&str, Rewrite); 5] = [
    (CreateUser::NAME, rewrite::<CreateUser>),
    (UpdateUser::NAME, rewrite::<UpdateUser>),
    (ChangePassword::NAME, rewrite::<ChangePassword>),
    (ChangeRole::NAME, rewrite::<ChangeRole>),
    (DeleteUser::NAME, rewrite::<DeleteUser>),
];
pub const QUERIES: [(&str, Rewrite); 3] = [
    (GetUser::NAME, rewrite::<GetUser>),
    (ListUsers::NAME, rewrite::<ListUsers>),
    (ListEvents::NAME, rewrite::<ListEvents>),
];

fn rewrite<M: Message>(body: &[u8]) -> Result<Value, String> {
    let map = json::object(body).map_err(|malformed| malformed.0)?;
    let message = M::read(Fields::new(map)).map_err(|details| format!("{details:?}"))?;
    serde_json::to_value(message).map_err(|error| error.to_string())
}

/// The decoder and what it is judged by.
pub struct Checker {
    pub decoder: Decoder,
    commands: Schemas,
    queries: Schemas,
    reply: jsonschema::Validator,
}

fn must(holds: bool, text: fmt::Arguments<'_>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(text.to_string()) }
}

impl Checker {
    pub fn new() -> Self {
        let reply = include_str!("../../schemas/reply.json");
        let reply: Value = serde_json::from_str(reply).expect("JSON");
        Self {
            decoder: Decoder::new(),
            commands: Schemas::load("commands"),
            queries: Schemas::load("queries"),
            reply: jsonschema::validator_for(&reply).expect("a schema"),
        }
    }

    pub fn schemas(&self, way: Way) -> &Schemas {
        if way == Way::Query { &self.queries } else { &self.commands }
    }

    /// Decodes an input and checks what came of it. `thoroughly` asks the schemas too, which takes its time.
    pub fn check(&self, input: &Input, thoroughly: bool) -> Result<Verdict, String> {
        let verdict = self.decoder.decode(input);
        if let Verdict::Task(task) = &verdict {
            envelope_of(input, task)?;
        }
        match (&verdict, verdict.refusal()) {
            (Verdict::Task(task), _) if input.way == Way::Parked => {
                must(matches!(task.work, Work::Park(..)), format_args!("what was parked is never run"))?;
                return Ok(verdict);
            }
            (Verdict::Query(None), _) => {
                let answerable = input.reply_to.as_deref().is_some_and(oracle::may_reply);
                must(!answerable, format_args!("a query was dropped that could be answered"))?;
                return Ok(verdict);
            }
            (_, Some((refusal, kept))) => {
                names_what_is_wrong(input, refusal)?;
                keeps_secrets(refusal)?;
                if thoroughly {
                    let body = error_body(refusal);
                    let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
                    must(
                        self.reply.is_valid(&body),
                        format_args!("the refusal is not what schemas/reply.json says: {body}"),
                    )?;
                }
                self.in_order(input, &verdict, thoroughly)?;
                if let Some(kept) = kept {
                    kept_for(input, refusal, kept)?;
                }
            }
            (_, None) => {
                must(verdict.accepted(), format_args!("neither refused nor accepted"))?;
                self.in_order(input, &verdict, thoroughly)?;
                self.says_the_same(input, thoroughly)?;
                if input.way == Way::Query {
                    let asked = self.decoder.asked();
                    must(
                        asked.as_ref().is_some_and(super::verdict::Question::is_sane),
                        format_args!("asked for {asked:?}"),
                    )?;
                }
            }
        }
        Ok(verdict)
    }

    fn rewrite_of(input: &Input) -> Option<(&'static str, Rewrite)> {
        let all: &[(&'static str, Rewrite)] = if input.way == Way::Query { &QUERIES } else { &COMMANDS };
        all.iter().find(|(name, _)| Some(*name) == input.kind.as_deref()).copied()
    }

    /// What was accepted means what was said: nothing is lost, added or changed but for blanks and capitals.
    fn says_the_same(&self, input: &Input, thoroughly: bool) -> Result<(), String> {
        let (name, rewrite) = Self::rewrite_of(input).ok_or("a type that is in no table")?;
        let said =
            oracle::object(&input.body).ok_or("accepted, and not one object without duplicate keys")?;
        // Null is absent.
        let said = oracle::understood(&said).into_iter().filter(|(_, value)| !value.is_null());
        let said = Value::Object(said.collect());
        let meant = rewrite(&input.body)?;
        must(meant == said, format_args!("{name}: {said} was understood as {meant}"))?;
        let again = rewrite(meant.to_string().as_bytes())?;
        must(again == meant, format_args!("{name}: {meant} was understood as {again}"))?;
        if let (true, Value::Object(map)) = (thoroughly, &meant) {
            let takes = self.schemas(input.way).takes(name, map);
            must(takes != Some(false), format_args!("{name}: accepted, and not what its schema takes"))?;
        }
        Ok(())
    }

    /// Type, envelope, payload, token, access: the first that is wrong decides.
    fn in_order(&self, input: &Input, verdict: &Verdict, thoroughly: bool) -> Result<(), String> {
        let said = verdict.refusal().map(|(refusal, _)| refusal);
        let is = |code: &str| said.is_some_and(|refusal| refusal.code.as_str() == code);
        let told = said.map(told).unwrap_or_default();
        let alone = |fault: Fault| is("BAD_REQUEST") && told == BTreeSet::from([fault]);
        let Some((name, _)) = Self::rewrite_of(input) else {
            let reason =
                if input.kind.as_deref().unwrap_or_default().is_empty() { "missing" } else { "unknown_type" };
            must(alone(("type", reason)), format_args!("{reason} type, and {verdict}"))?;
            return Ok(());
        };
        let mut faults = oracle::envelope(input);
        let map = oracle::object(&input.body);
        if input.content_type.as_deref().is_some_and(|text| !oracle::is_json(text)) {
            faults.insert(("content_type", "unsupported_content_type"));
        } else if input.body.len() > 65_536 {
            faults.insert(("body", "too_large"));
        } else if map.is_none() && !oracle::has_surrogate(&input.body) {
            faults.insert(("body", "malformed_json"));
        }
        if !faults.is_empty() {
            must(is("BAD_REQUEST"), format_args!("{faults:?}, and {verdict}"))?;
            must(faults.is_subset(&told), format_args!("{faults:?}, and told of {told:?}"))?;
            let body = faults.iter().any(|(field, _)| matches!(*field, "body" | "content_type"));
            if let (true, false, Some(map)) = (thoroughly, body, map) {
                let takes = self.schemas(input.way).takes(name, &oracle::understood(&map));
                let all = takes != Some(false) || told.len() > faults.len();
                must(all, format_args!("{name}: the payload is wrong too, and told of {told:?}"))?;
            }
            return Ok(());
        }
        // Half a surrogate pair: another parser cannot say what is there. It must not be accepted, ever.
        let Some(map) = map else {
            must(is("BAD_REQUEST"), format_args!("half a surrogate pair, and {verdict}"))?;
            return Ok(());
        };
        let payload = oracle::understood(&map);
        if thoroughly && let Some(takes) = self.schemas(input.way).takes(name, &payload) {
            must(takes != is("BAD_REQUEST"), format_args!("{name}: the schema says {takes}, and {verdict}"))?;
        }
        if is("BAD_REQUEST") {
            return Ok(());
        }
        let passed = input.way == Way::Query
            && oracle::deadline(input).is_some_and(|time| time <= super::verdict::now());
        let expected = match input.headers.get("authorization") {
            Some(value) if !value.is_null() => Some("UNAUTHORIZED"),
            _ => oracle::access(input, name, &payload).or(passed.then_some("EXPIRED")),
        };
        must(
            said.map(|refusal| refusal.code.as_str()) == expected,
            format_args!("expected {expected:?}, not {verdict}"),
        )?;
        Ok(())
    }
}

/// What the lanes are told of a message beside its payload.
fn envelope_of(input: &Input, task: &Task) -> Result<(), String> {
    let reply_to = input.reply_to.as_deref().filter(|name| oracle::may_reply(name));
    must(task.reply_to.as_deref() == reply_to, format_args!("would reply to {:?}", task.reply_to))?;
    must(
        task.message_type == input.kind.clone().unwrap_or_default(),
        format_args!("took it for {}", task.message_type),
    )?;
    must(task.correlation_id == input.correlation_id, format_args!("correlates {:?}", task.correlation_id))?;
    must(task.deadline == oracle::deadline(input), format_args!("deadline {:?}", task.deadline))?;
    let faulty =
        oracle::envelope(input).iter().any(|(field, _)| matches!(*field, "message_id" | "timestamp"));
    match &task.key {
        None => must(faulty, format_args!("has no key"))?,
        Some(key) => {
            must(!faulty, format_args!("has a key: {key:?}"))?;
            let id = input.message_id.as_deref().unwrap_or_default().to_ascii_lowercase();
            must(key.message_id.to_string() == id, format_args!("its id became {}", key.message_id))?;
            let day = oracle::day(input);
            must(
                Some(key.issued_on.to_string()) == day,
                format_args!("its day became {}, not {day:?}", key.issued_on),
            )?;
        }
    }
    // Whoever shows a token is nobody else.
    let tokenless = input.headers.get("authorization").is_none_or(Value::is_null);
    let user = input.user_id.as_deref().filter(|name| tokenless && [ADMIN, READER].contains(name));
    let actor = user.map_or("anonymous".to_owned(), |name| format!("service:{name}"));
    must(task.actor.to_string() == actor, format_args!("took the sender for {}", task.actor))?;
    if let Some(parent) = &task.trace.parent {
        let plain = parent.len() <= 128 && parent.bytes().all(|byte| byte.is_ascii_graphic());
        must(
            plain && oracle::text(input, "traceparent") == Some(parent),
            format_args!("passes on the trace {parent:?}"),
        )?;
    }
    if let Some(state) = &task.trace.state {
        let plain = task.trace.parent.is_some() && state.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        must(plain && state.len() <= 512, format_args!("passes on the trace state {state:?}"))?;
    }
    // Kept, and read back: the same but for the token, which is not kept.
    let properties = &task.original.properties;
    must(properties.authorization.is_none(), format_args!("carries the token along"))?;
    let stored = serde_json::to_string(properties).map_err(|error| error.to_string())?;
    let read: Properties = serde_json::from_str(&stored).map_err(|error| error.to_string())?;
    must(read == *properties, format_args!("kept as {stored}"))?;
    must(*task.original.body == *input.body, format_args!("keeps another body"))?;
    must(!task.order_key().unwrap_or_default().contains(SECRET), format_args!("a secret in the order key"))?;
    Ok(())
}

fn told(refusal: &Refusal) -> BTreeSet<(&str, &str)> {
    let details = refusal.details.iter();
    details.map(|detail| (detail.field.as_deref().unwrap_or_default(), reason(detail))).collect()
}

fn reason(detail: &Detail) -> &'static str {
    use roster::application::error::Reason;
    match detail.reason {
        Reason::MalformedJson => "malformed_json",
        Reason::UnknownType => "unknown_type",
        Reason::Missing => "missing",
        Reason::TooLarge => "too_large",
        Reason::InvalidUuid => "invalid_uuid",
        Reason::InvalidValue => "invalid_value",
        Reason::UnsupportedContentType => "unsupported_content_type",
        Reason::MissingMessageId => "missing_message_id",
        Reason::UnknownField => "unknown_field",
        _ => "another",
    }
}

/// A bad request says at least one thing, and each by the name of what is wrong.
fn names_what_is_wrong(input: &Input, refusal: &Refusal) -> Result<(), String> {
    must(!refusal.message.is_empty(), format_args!("no message"))?;
    if refusal.code.as_str() != "BAD_REQUEST" {
        must(!refusal.details.is_empty(), format_args!("no details"))?;
        return Ok(());
    }
    must(!refusal.details.is_empty(), format_args!("a bad request, and nothing is wrong with it"))?;
    let keys = json::object(&input.body).unwrap_or_default();
    for detail in &refusal.details {
        let Some(field) = detail.field.as_deref() else { return Err(format!("no field: {detail:?}")) };
        match reason(detail) {
            "unknown_field" => {
                let shown =
                    |key: &String| -> String { key.chars().filter(|c| !c.is_control()).take(64).collect() };
                must(
                    keys.keys().any(|key| shown(key) == field),
                    format_args!("no such field was sent: {field:?}"),
                )?;
            }
            _ => must(!field.is_empty() && field.is_ascii(), format_args!("not a field: {field:?}"))?,
        }
    }
    let distinct: BTreeSet<_> =
        refusal.details.iter().map(|detail| (&detail.field, reason(detail))).collect();
    must(
        distinct.len() == refusal.details.len() || keys.len() > 1,
        format_args!("said twice: {:?}", refusal.details),
    )?;
    Ok(())
}

/// Names of fields are the sender's to choose; nothing else that was sent is ever told.
fn keeps_secrets(refusal: &Refusal) -> Result<(), String> {
    let fields = refusal.details.iter().filter(|detail| reason(detail) != "unknown_field");
    let fields = fields.filter_map(|detail| detail.field.as_deref());
    let messages = refusal.details.iter().map(|detail| &*detail.message);
    let mut texts = fields.chain(messages).chain([&*refusal.message]);
    must(
        !texts.any(|text| text.contains(SECRET) || !text.is_ascii()),
        format_args!("tells what was sent: {refusal:?}"),
    )?;
    Ok(())
}

/// The reason under which it is a dead letter where nobody can be told.
fn kept_for(input: &Input, refusal: &Refusal, kept: KeptReason) -> Result<(), String> {
    let told = told(refusal);
    let any = |wanted: &[&str]| {
        told.iter().any(|(field, reason)| wanted.contains(field) || wanted.contains(reason))
    };
    let unreadable = refusal.code.as_str() == "BAD_REQUEST"
        && (any(&["malformed_json", "too_large", "unsupported_content_type", "missing_message_id"])
            || oracle::envelope(input).iter().any(|(field, _)| matches!(*field, "message_id" | "timestamp")));
    let expected = match () {
        () if told.contains(&("type", "unknown_type")) || told.contains(&("type", "missing")) => {
            KeptReason::UnknownType
        }
        () if unreadable => KeptReason::Malformed,
        () => KeptReason::Refused,
    };
    must(kept == expected, format_args!("kept as {kept:?}, not {expected:?}"))?;
    Ok(())
}

/// The payload of an input, for those who bend it.
pub fn payload(input: &Input) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&input.body).ok()? {
        Value::Object(map) => Some(map),
        _ => None,
    }
}
