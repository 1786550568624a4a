//! Events as subscribers see them: CloudEvents 1.0 in structured mode (CONTRACT.md §5).

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::UserEvent;

/// A CloudEvent as it is published, and as `event.list.v1` answers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct EventView {
    pub specversion: String,
    pub id: Uuid,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: Uuid,
    pub time: DateTime<Utc>,
    pub datacontenttype: String,
    pub dataschema: String,
    /// Zero-padded to 19 digits, so that it compares as a string.
    pub sequence: String,
    pub partitionkey: Uuid,
    /// The `message_id` of the command that caused it.
    pub causationid: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    pub data: Value,
}

/// How far an answer of `event.list.v1` reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    pub has_more: bool,
    /// The oldest sequence still kept of this subject; null where there is none.
    pub first_sequence: Option<i64>,
}

/// An event's type and its data.
#[must_use]
pub fn describe(event: &UserEvent) -> (&'static str, Value) {
    match event {
        UserEvent::Created { email, name, role } => {
            ("user.created.v1", json!({ "email": email, "name": name, "role": role }))
        }
        UserEvent::Renamed { name } => ("user.renamed.v1", json!({ "name": name })),
        UserEvent::EmailChanged { email } => ("user.email_changed.v1", json!({ "email": email })),
        UserEvent::RoleChanged { role, previous_role } => {
            ("user.role_changed.v1", json!({ "role": role, "previous_role": previous_role }))
        }
        UserEvent::PasswordChanged => ("user.password_changed.v1", json!({})),
        UserEvent::Deleted => ("user.deleted.v1", json!({})),
    }
}
