//! What the schemas say of one request, and of what answers it.

use std::any::TypeId;

use schemars::{JsonSchema, Schema, json_schema};
use serde_json::{Value, json};

use super::{ErrorReply, reading, writing};
use crate::application::actor::Access;
use crate::application::message::{Message, NoMeta};

/// A command or a query of the contract.
#[derive(Debug, Clone)]
pub struct RequestContract {
    pub name: &'static str,
    pub kind: Kind,
    pub access: Access,
    pub payload: Schema,
    /// The whole body of the reply, yes or no.
    pub reply: Schema,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Command,
    Query,
}

impl Kind {
    /// Where its schemas stand, and what its exchange is called.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Command => "commands",
            Self::Query => "queries",
        }
    }
}

impl RequestContract {
    #[must_use]
    pub fn of<M: Message>(kind: Kind, access: Access) -> Self {
        Self {
            name: M::NAME,
            kind,
            access,
            payload: reading().into_root_schema_for::<M>(),
            reply: reply::<M::Data, M::Meta>(M::NAME),
        }
    }

    /// Who may send it, in words.
    #[must_use]
    pub const fn senders(&self) -> &'static str {
        match self.access {
            Access::Anyone => "anyone",
            Access::Admin => "an admin",
            Access::OwnerOrAdmin => "the user, an admin",
            Access::OwnerOrReader => "the user, an admin, a reader service",
            Access::AdminOrReader => "an admin, a reader service",
        }
    }
}

fn reply<D: JsonSchema, M: JsonSchema + 'static>(name: &str) -> Schema {
    let mut writing = writing();
    let mut properties = json!({ "data": writing.subschema_for::<D>() });
    let mut required = vec!["data"];
    if TypeId::of::<M>() != TypeId::of::<NoMeta>() {
        if let Value::Object(properties) = &mut properties {
            properties.insert("meta".to_owned(), writing.subschema_for::<M>().to_value());
        }
        required.push("meta");
    }
    let refused = writing.subschema_for::<ErrorReply>();
    json_schema!({
        "title": format!("Reply to {name}"),
        "oneOf": [{ "type": "object", "properties": properties, "required": required }, refused],
        "$defs": writing.take_definitions(true)
    })
}

/// The envelope of every reply.
pub(super) fn any_reply() -> Schema {
    let mut writing = writing();
    let refused = writing.subschema_for::<ErrorReply>();
    json_schema!({
        "title": "Reply",
        "description": "Either `data`, with `meta` where there is any, or `error`",
        "oneOf": [
            {
                "type": "object",
                "properties": { "data": { "type": ["object", "array"] }, "meta": { "type": "object" } },
                "required": ["data"]
            },
            refused
        ],
        "$defs": writing.take_definitions(true)
    })
}
