//! The contract in machine-readable form: a JSON Schema (2020-12) for each message, and an AsyncAPI document,
//! all made from the types. Each schema stands alone, so that a caller can copy the one it needs.

mod asyncapi;
pub mod compatibility;
mod request;
mod text;
mod values;

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

pub use request::{Kind, RequestContract};

use super::command;
use super::dto::{ErrorReply, EventContract, EventView, event_contracts};
use super::query;
use super::registry::DuplicateName;

/// What an `$id` starts with, as the `dataschema` of events does unless `ROSTER_SCHEMA_BASE` says otherwise.
pub const BASE: &str = "urn:roster:schema:";

/// The folders of `schemas/`.
pub const FOLDERS: [&str; 4] = ["commands", "queries", "replies", "events"];

/// Every file of `schemas/`: its path there, and its text.
///
/// # Errors
/// [`DuplicateName`], which is a bug.
pub fn files() -> Result<BTreeMap<String, String>, DuplicateName> {
    let contract = Contract::read()?;
    let mut files: BTreeMap<_, _> =
        contract.schemas().into_iter().map(|(path, schema)| (path, text::json(&schema))).collect();
    files.insert("asyncapi.yaml".to_owned(), text::yaml(&asyncapi::document(&contract)));
    Ok(files)
}

/// Every JSON Schema by its path in `schemas/`.
///
/// # Errors
/// [`DuplicateName`], which is a bug.
pub fn schemas() -> Result<BTreeMap<String, Value>, DuplicateName> {
    Ok(Contract::read()?.schemas())
}

/// All that is said on the wire.
struct Contract {
    requests: Vec<RequestContract>,
    events: Vec<EventContract>,
}

impl Contract {
    fn read() -> Result<Self, DuplicateName> {
        let commands = command::registry()?;
        Ok(Self {
            requests: commands.contracts().chain(query::contracts()).collect(),
            events: event_contracts(writing),
        })
    }

    /// Each JSON Schema by its path.
    fn schemas(&self) -> BTreeMap<String, Value> {
        let mut schemas = BTreeMap::new();
        let mut add = |path: String, schema: Schema| {
            let mut schema = schema.to_value();
            if let Value::Object(fields) = &mut schema {
                fields.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
                fields.insert("$id".to_owned(), json!(format!("{BASE}{path}")));
            }
            schemas.insert(path, schema);
        };
        for request in &self.requests {
            add(format!("{}/{}.json", request.kind.folder(), request.name), request.payload.clone());
            add(format!("replies/{}.json", request.name), request.reply.clone());
        }
        for event in &self.events {
            add(format!("events/{}.json", event.name), event.data.clone());
        }
        add("event.json".to_owned(), writing().into_root_schema_for::<EventView>());
        add("reply.json".to_owned(), request::any_reply());
        schemas
    }
}

/// For what Roster reads: a field that may be left out is not required.
fn reading() -> SchemaGenerator {
    SchemaSettings::draft2020_12().for_deserialize().into_generator()
}

/// For what Roster writes: a field that is always there is required, and one that may be absent is never null.
fn writing() -> SchemaGenerator {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(absent_is_not_null))
        .into_generator()
}

/// `Option` is left out where it is `None`, unless it is required: then it is null.
fn absent_is_not_null(schema: &mut Schema) {
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (_, property) in properties.iter_mut().filter(|(name, _)| !required.iter().any(|one| one == *name)) {
        let Some(Value::Array(types)) = property.get_mut("type") else { continue };
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            if let Some(types) = property.get_mut("type") {
                *types = only;
            }
        }
    }
}

/// The condition that a field is there and not null, for payloads with alternatives.
#[must_use]
pub(super) fn present(field: &str) -> Value {
    json!({ "required": [field], "properties": { field: { "type": "string" } } })
}

/// Turns a closed list of words into one that may grow: readers must bear words they do not know.
pub(super) fn leave_open(schema: &mut Schema) {
    let Some(words) = schema.remove("enum") else { return };
    schema.remove("type");
    schema.insert("anyOf".to_owned(), json!([{ "type": "string", "enum": words }, { "type": "string" }]));
}

#[cfg(test)]
mod tests;
