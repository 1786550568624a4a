//! What the properties and the outline of a body say, before anybody asks which message it is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::error::{Detail, Reason, Refusal};
use super::json;
use super::kept::KeptReason;
use super::message::{Header, MessageKey, Properties, time_of};

/// The largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How far a message's time may lie ahead.
const MAX_AHEAD: Duration = Duration::from_secs(600);

/// The properties that every command has.
pub(super) struct Envelope {
    pub key: Option<MessageKey>,
    pub deadline: Option<DateTime<Utc>>,
    pub details: Vec<Detail>,
}

pub(super) fn read_envelope(properties: &Properties, now: DateTime<Utc>) -> Envelope {
    let mut details = Vec::new();
    let deadline = read_deadline(properties, &mut details);
    let key = read_key(properties, now, &mut details);
    Envelope { key, deadline, details }
}

fn read_key(properties: &Properties, now: DateTime<Utc>, details: &mut Vec<Detail>) -> Option<MessageKey> {
    let Some(text) = properties.message_id.as_deref().filter(|text| !text.is_empty()) else {
        details.push(Detail::new("message_id", Reason::MissingMessageId, "a command needs a message_id"));
        return None;
    };
    let Some(message_id) = parse_uuid(text) else {
        details.push(Detail::new("message_id", Reason::InvalidUuid, "must be a UUID"));
        return None;
    };
    let (field, time) = match (time_of(message_id), properties.timestamp) {
        (Some(time), _) => ("message_id", Some(time)),
        (None, Some(seconds)) => (
            "timestamp",
            i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
        ),
        (None, None) => {
            let message = "a message_id that is no UUIDv7 needs a timestamp beside it";
            details.push(Detail::new("timestamp", Reason::Missing, message));
            return None;
        }
    };
    match time.filter(|time| !is_ahead(*time, now)) {
        Some(time) => Some(MessageKey { message_id, issued_on: time.date_naive() }),
        None => {
            details.push(ahead(field));
            None
        }
    }
}

/// Whether a message's time lies further ahead than clocks may differ.
pub(super) fn is_ahead(time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    time > now + MAX_AHEAD
}

pub(super) fn ahead(field: &'static str) -> Detail {
    Detail::new(field, Reason::InvalidValue, "its time lies more than 10 minutes ahead")
}

pub(super) fn read_deadline(properties: &Properties, details: &mut Vec<Detail>) -> Option<DateTime<Utc>> {
    let read = match properties.deadline.as_ref()? {
        Header::Text(text) => DateTime::parse_from_rfc3339(text).ok(),
        Header::NotText {} => None,
    };
    if read.is_none() {
        details.push(Detail::new("deadline", Reason::InvalidValue, "must be an RFC 3339 time"));
    }
    read.map(|time| time.to_utc())
}

pub(super) fn parse_uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

pub(super) fn envelope_reason(details: &[Detail]) -> KeptReason {
    let readable = details.iter().all(|detail| detail.field.as_deref() == Some("deadline"));
    if readable { KeptReason::Refused } else { KeptReason::Malformed }
}

/// The body as an object; what is wrong with the envelope is told along with what is wrong here.
pub(super) fn payload(
    properties: &Properties,
    body: &[u8],
    envelope: &[Detail],
) -> Result<serde_json::Map<String, serde_json::Value>, Refusal> {
    let mut details = envelope.to_vec();
    if properties.content_type.as_deref().is_some_and(|text| !is_json(text)) {
        let message = "must be application/json or absent";
        details.push(Detail::new("content_type", Reason::UnsupportedContentType, message));
        return Err(Refusal::invalid(details));
    }
    // Before parsing: a large body costs memory several times its size.
    if body.len() > MAX_BODY {
        details.push(Detail::new("body", Reason::TooLarge, "must have at most 65536 bytes"));
        return Err(Refusal::invalid(details));
    }
    json::object(body).map_err(|malformed| {
        details.push(Detail::new("body", Reason::MalformedJson, malformed.0));
        Refusal::invalid(details)
    })
}

/// What a body that may be wrong in any way is about, if that can be told.
pub(super) fn named(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Names {
        user_id: Option<Uuid>,
        id: Option<Uuid>,
        session_id: Option<Uuid>,
    }
    let names: Names = serde_json::from_slice(body.get(..=MAX_BODY).is_none().then_some(body)?).ok()?;
    names.user_id.or(names.id).or(names.session_id).map(|id| id.to_string())
}

fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';');
    let essence = parts.next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        && parts.all(|parameter| parameter.trim().eq_ignore_ascii_case("charset=utf-8"))
}
