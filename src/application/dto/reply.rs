//! The reply envelope (CONTRACT.md §3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::error::Refusal;

/// A reply that says yes: `data`, and `meta` where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reply<D, M> {
    pub data: D,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<M>,
}

/// A reply that says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorReply {
    pub error: Refusal,
}
