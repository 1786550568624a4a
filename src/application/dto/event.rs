//! Events as subscribers see them: CloudEvents 1.0 in structured mode (CONTRACT.md §5).

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::super::ports::NewEvent;

/// A CloudEvent as it is published, and as `event.list.v1` answers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct EventView {
    #[schemars(extend("const" = "1.0"))]
    pub specversion: String,
    /// A repeat has the same id.
    pub id: Uuid,
    /// `/` and the installation's namespace.
    #[schemars(regex(pattern = "^/"))]
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// The user it is about.
    pub subject: Uuid,
    /// With milliseconds.
    #[serde(serialize_with = "milliseconds")]
    #[schemars(with = "DateTime<Utc>")]
    pub time: DateTime<Utc>,
    #[schemars(extend("const" = "application/json"))]
    pub datacontenttype: String,
    /// Identifies the schema of `data`: the base that the service is set to, and the schema's path.
    pub dataschema: String,
    /// Zero-padded to 19 digits, so that it compares as a string.
    #[schemars(regex(pattern = r"^[0-9]{19}$"))]
    pub sequence: String,
    /// The subject.
    pub partitionkey: Uuid,
    /// The `message_id` of the command that caused it.
    pub causationid: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    /// `user:<id>`, `service:<name>` or `anonymous`.
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// Its shape depends on the type.
    #[schemars(with = "Map<String, Value>")]
    pub data: Value,
}

impl EventView {
    /// What [`render`] writes, as a value.
    ///
    /// # Errors
    /// Where the event's data is not JSON.
    pub fn of(event: &NewEvent, source: &str, schema_base: &str) -> Result<Self, serde_json::Error> {
        Ok(Self {
            specversion: "1.0".into(),
            id: event.id,
            source: source.into(),
            kind: event.kind.clone().into_owned(),
            subject: event.subject,
            time: event.occurred_at.trunc_subsecs(3),
            datacontenttype: "application/json".into(),
            dataschema: format!("{schema_base}events/{}.json", event.kind),
            sequence: format!("{:019}", event.sequence),
            partitionkey: event.subject,
            causationid: event.causation_id,
            correlationid: event.correlation_id.clone(),
            actor: event.actor.clone(),
            traceparent: event.traceparent.clone(),
            tracestate: event.tracestate.clone(),
            data: serde_json::from_str(&event.data)?,
        })
    }
}

fn milliseconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// An event's body as it is published. `source` is `/` and the namespace; `schema_base` stands before
/// `events/<type>.json`.
#[must_use]
pub fn render(event: &NewEvent, source: &str, schema_base: &str) -> String {
    let NewEvent { id, subject, kind, causation_id, .. } = event;
    let mut json = String::with_capacity(640 + event.data.len());
    json.push_str(r#"{"specversion":"1.0","id":""#);
    // Writing to a String cannot fail.
    let _ = write!(json, r#"{id}","source":"#);
    push_text(&mut json, source);
    json.push_str(r#","type":"#);
    push_text(&mut json, kind);
    let time = event.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let _ = write!(
        json,
        r#","subject":"{subject}","time":"{time}","datacontenttype":"application/json","dataschema":"#
    );
    push_text(&mut json, &format!("{schema_base}events/{kind}.json"));
    let _ = write!(
        json,
        r#","sequence":"{:019}","partitionkey":"{subject}","causationid":"{causation_id}""#,
        event.sequence
    );
    for (name, value) in [
        ("correlationid", event.correlation_id.as_deref()),
        ("actor", Some(event.actor.as_str())),
        ("traceparent", event.traceparent.as_deref()),
        ("tracestate", event.tracestate.as_deref()),
    ] {
        if let Some(value) = value {
            let _ = write!(json, r#","{name}":"#);
            push_text(&mut json, value);
        }
    }
    let _ = write!(json, r#","data":{}}}"#, event.data);
    json
}

/// As a JSON string; most need no escape.
fn push_text(json: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        // A string always serialises.
        json.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// How far an answer of `event.list.v1` reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    pub has_more: bool,
    /// The oldest sequence still kept of this subject; null where there is none.
    pub first_sequence: Option<i64>,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn event() -> NewEvent {
        NewEvent {
            id: Uuid::from_u128(1),
            subject: Uuid::from_u128(2),
            sequence: 3,
            kind: "user.renamed.v1".into(),
            data: r#"{"name":"Ada \"the\" Countess"}"#.into(),
            occurred_at: DateTime::from_timestamp(1_795_253_400, 123_456_789).unwrap(),
            causation_id: Uuid::from_u128(4),
            correlation_id: Some("a \"quoted\"\n\u{0}é".into()),
            actor: "service:billing".into(),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            tracestate: Some("a=\\b".into()),
        }
    }

    #[rstest]
    #[case::full(event())]
    #[case::bare(NewEvent { correlation_id: None, traceparent: None, tracestate: None, ..event() })]
    #[case::whole_second(NewEvent { occurred_at: DateTime::from_timestamp(1_795_253_400, 0).unwrap(), ..event() })]
    fn what_is_listed_is_what_was_published(#[case] event: NewEvent) {
        let view = EventView::of(&event, "/roster", "urn:roster:schema:").unwrap();
        let published = render(&event, "/roster", "urn:roster:schema:");
        assert_eq!(serde_json::to_string(&view).unwrap(), published);
        assert_eq!(serde_json::from_str::<EventView>(&published).unwrap(), view);
    }

    #[test]
    fn the_time_has_milliseconds() {
        let published = render(&event(), "/roster", "urn:roster:schema:");
        assert!(published.contains(r#""time":"2026-11-21T09:30:00.123Z""#), "{published}");
    }
}
