//! Real traffic against the published schemas, as a caller in another language would validate it: the files in
//! `schemas/` alone. What is read here is closed first, so that a field which no schema names is found too.

use std::collections::BTreeMap;
use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Caller, Reply, Request, Stage, person};

/// The published schemas by their path.
struct Schemas(BTreeMap<String, Validator>);

impl Schemas {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let mut schemas = BTreeMap::new();
        for folder in ["", "commands", "queries", "replies", "events"] {
            for file in std::fs::read_dir(root.join(folder)).unwrap().flatten() {
                let path = Path::new(folder).join(file.file_name()).to_string_lossy().into_owned();
                if !path.ends_with(".json") {
                    continue;
                }
                let mut schema: Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
                close(&mut schema);
                let options = jsonschema::options().should_validate_formats(true);
                schemas.insert(path, options.build(&schema).unwrap());
            }
        }
        Self(schemas)
    }

    /// What a schema has against a value; nothing where it fits.
    fn against(&self, path: &str, value: &Value) -> Vec<String> {
        let Some(schema) = self.0.get(path) else { return vec![format!("there is no schemas/{path}")] };
        let errors = schema.iter_errors(value);
        errors.map(|error| format!("{path}: {error} at {} in {value}", error.instance_path())).collect()
    }
}

/// Lets every object with named properties have no others.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && fields.get("type") == Some(&json!("object")) {
                fields.entry("additionalProperties").or_insert(json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Sends requests, and collects what does not fit the schemas.
struct Traffic {
    schemas: Schemas,
    caller: Caller,
    wrong: Vec<String>,
    /// Every code that was answered, to see that the errors were there.
    codes: Vec<String>,
}

impl Traffic {
    async fn ask(&mut self, kind: &str, body: Value) -> Reply {
        let request = self.caller.request(kind, body);
        self.send(&request).await
    }

    async fn send(&mut self, request: &Request) -> Reply {
        let kind = request.kind.clone().unwrap();
        let reply = self.caller.ask_with(request).await;
        self.wrong.extend(self.schemas.against("reply.json", &reply.body));
        self.wrong.extend(self.schemas.against(&format!("replies/{kind}.json"), &reply.body));
        let payload = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let folder = match self.schemas.0.contains_key(&format!("queries/{kind}.json")) {
            true => "queries",
            false => "commands",
        };
        let refused = self.schemas.against(&format!("{folder}/{kind}.json"), &payload);
        let code = if reply.is_success() { "" } else { reply.code() };
        // The schema and the worker must be of one opinion on the payload.
        match code {
            "BAD_REQUEST" if refused.is_empty() => {
                self.wrong.push(format!("{kind} {payload}: {}", reply.body))
            }
            "BAD_REQUEST" => {}
            _ => self.wrong.extend(refused),
        }
        self.codes.push(code.to_owned());
        reply
    }
}

#[tokio::test]
async fn what_goes_over_the_wire_fits_the_published_schemas() {
    let (stage, _worker) = Stage::with_worker().await;
    let subscriber = stage.subscriber().await;
    let (wrong, codes) = (Vec::new(), Vec::new());
    let mut traffic = Traffic { schemas: Schemas::read(), caller: stage.service().await, wrong, codes };

    let create = traffic.caller.request("user.create.v1", person("ada"));
    let id = traffic.send(&create).await.id();
    assert_eq!(traffic.send(&create.again()).await.replayed, Some(true));
    let other = create.again().json(&person("bob"));
    assert_eq!(traffic.send(&other).await.refusal(), "CONFLICT message_id_reused");

    let nobody = Uuid::now_v7();
    let taken = person("ada");
    let full = json!({
        "email": "bob@example.com", "name": "Bob", "password": "correct horse", "id": Uuid::now_v7(), "role": "admin"
    });
    for (kind, body, code) in [
        ("user.create.v1", full, ""),
        ("user.create.v1", taken, "CONFLICT"),
        ("user.create.v1", json!({ "email": 1, "name": "A", "role": "root", "more": {} }), "BAD_REQUEST"),
        ("user.update.v1", json!({ "id": id, "name": "Ada L", "email": "al@example.com" }), ""),
        ("user.update.v1", json!({ "id": id, "name": "Ada L" }), ""),
        ("user.update.v1", json!({ "id": id, "name": "Ada", "expected_version": 1 }), "CONFLICT"),
        ("user.update.v1", json!({ "id": nobody, "name": "Ada" }), "NOT_FOUND"),
        ("user.update.v1", json!({ "id": id }), "BAD_REQUEST"),
        ("user.change_password.v1", json!({ "id": id, "new_password": "another secret" }), ""),
        ("user.change_password.v1", json!({ "id": id, "new_password": "x" }), "BAD_REQUEST"),
        ("user.change_role.v1", json!({ "id": id, "role": "admin" }), ""),
        ("user.change_role.v1", json!({ "id": id, "role": "owner" }), "BAD_REQUEST"),
        ("user.get.v1", json!({ "id": id }), ""),
        ("user.get.v1", json!({ "email": "AL@example.com" }), ""),
        ("user.get.v1", json!({ "id": nobody }), "NOT_FOUND"),
        ("user.get.v1", json!({ "id": id, "email": "al@example.com" }), "BAD_REQUEST"),
        ("user.list.v1", json!({}), ""),
        ("user.list.v1", json!({ "page": 1, "per_page": 1, "sort": "email", "total": false }), ""),
        ("user.list.v1", json!({ "search": "example", "role": "admin", "order": "asc" }), ""),
        ("user.list.v1", json!({ "per_page": 0 }), "BAD_REQUEST"),
        ("event.list.v1", json!({ "subject": id, "limit": 2 }), ""),
        ("event.list.v1", json!({ "subject": id, "after_sequence": 2 }), ""),
        ("event.list.v1", json!({ "subject": nobody }), ""),
        ("event.list.v1", json!({ "subject": "ada" }), "BAD_REQUEST"),
        ("user.delete.v1", json!({ "id": id, "expected_version": 5 }), ""),
        ("user.delete.v1", json!({ "id": id }), "NOT_FOUND"),
    ] {
        let reply = traffic.ask(kind, body.clone()).await;
        let found = if reply.is_success() { "" } else { reply.code() };
        assert_eq!(found, code, "{kind} {body}: {}", reply.body);
    }
    let page = traffic.ask("user.list.v1", json!({ "per_page": 1, "sort": "name" })).await;
    traffic.caller.create("cleo").await;
    if let Some(cursor) = page.meta()["next_cursor"].as_str() {
        traffic.ask("user.list.v1", json!({ "per_page": 1, "sort": "name", "cursor": cursor })).await;
    }
    let late = traffic.caller.request("user.delete.v1", json!({ "id": id })).deadline("2020-02-02T02:02:02Z");
    assert_eq!(traffic.send(&late).await.code(), "EXPIRED");
    traffic.caller = stage.anonymous().await;
    assert_eq!(traffic.ask("user.get.v1", json!({ "id": id })).await.code(), "UNAUTHORIZED");

    let events = subscriber.wait_for_sequence(&id.to_string(), 6).await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "user.created.v1",
            "user.renamed.v1",
            "user.email_changed.v1",
            "user.password_changed.v1",
            "user.role_changed.v1",
            "user.deleted.v1"
        ]
    );
    for event in &events {
        traffic.wrong.extend(traffic.schemas.against("event.json", &event.body));
        let path = event.body["dataschema"].as_str().unwrap().strip_prefix("urn:roster:schema:").unwrap();
        assert_eq!(path, format!("events/{}.json", event.kind));
        traffic.wrong.extend(traffic.schemas.against(path, &event.body["data"]));
    }
    assert!(traffic.wrong.is_empty(), "{}", traffic.wrong.join("\n"));
    for code in ["BAD_REQUEST", "UNAUTHORIZED", "NOT_FOUND", "CONFLICT", "EXPIRED"] {
        assert!(traffic.codes.iter().any(|answered| answered == code), "no {code}");
    }
}

/// A validator that takes everything would make the test above worthless.
#[test]
fn a_field_that_no_schema_names_is_found() {
    let schemas = Schemas::read();
    let user = json!({
        "id": Uuid::now_v7(), "email": "ada@example.com", "name": "Ada", "role": "user", "version": 1,
        "created_at": "2026-11-21T09:30:00Z", "updated_at": "2026-11-21T09:30:00.123456Z"
    });
    let reply = |field: &str, value: Value| {
        let mut data = user.clone();
        data[field] = value;
        json!({ "data": data })
    };
    let path = "replies/user.get.v1.json";
    assert!(schemas.against(path, &json!({ "data": user })).is_empty());
    for (field, value) in [
        ("password_hash", json!("x")),
        ("version", json!("1")),
        ("role", json!("root")),
        ("created_at", json!("yesterday")),
        ("id", json!("7")),
    ] {
        assert!(!schemas.against(path, &reply(field, value)).is_empty(), "{field}");
    }
    assert!(!schemas.against(path, &json!({ "data": user, "error": {} })).is_empty());
    assert!(!schemas.against("reply.json", &json!({})).is_empty());
}
