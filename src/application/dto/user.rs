//! A user as replies show it.

use chrono::{DateTime, SubsecRound, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{Role, User};

/// A user, without anything secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "User")]
pub struct UserView {
    pub id: Uuid,
    pub email: String,
    pub name: String,
    pub role: Role,
    /// The sequence of the user's last event.
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<&User> for UserView {
    fn from(user: &User) -> Self {
        let state = user.state();
        Self {
            id: state.id.uuid(),
            email: state.email.as_str().to_owned(),
            name: state.name.as_str().to_owned(),
            role: state.role,
            version: state.version,
            // As the database keeps them.
            created_at: state.created_at.trunc_subsecs(6),
            updated_at: state.updated_at.trunc_subsecs(6),
        }
    }
}

/// Where a page of a list stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PageMeta {
    /// Absent when a cursor was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<i64>,
    pub per_page: i64,
    /// How many there are in all; absent where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// Where the next page starts; null on the last one.
    pub next_cursor: Option<String>,
}
