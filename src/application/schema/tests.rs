//! The schemas say what the code does, and what is committed is what they are now.

use std::fs;
use std::path::{Path, PathBuf};

use rstest::rstest;

use super::*;
use crate::application::fields::Fields;
use crate::application::query::find;
use serde_json::Map;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn what_is_committed_is_in_step() {
    for (path, text) in files().unwrap() {
        let committed = fs::read_to_string(repository("schemas").join(&path)).unwrap_or_default();
        assert!(committed == text, "schemas/{path} is not in step; run: roster schema export");
    }
}

/// `tests/baseline` is what callers were promised; it is written anew when a version of Roster is released.
#[test]
fn what_was_promised_is_kept() {
    let mut promised = BTreeMap::new();
    for folder in ["", "commands", "queries", "replies", "events"] {
        for file in fs::read_dir(repository("tests/baseline").join(folder)).unwrap().flatten() {
            let path = Path::new(folder).join(file.file_name()).to_string_lossy().into_owned();
            if path.ends_with(".json") {
                promised.insert(path, serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap());
            }
        }
    }
    assert!(promised.len() >= 20, "{} schemas in tests/baseline", promised.len());
    let breaks = compatibility::compare(&promised, &schemas().unwrap());
    let shown: Vec<_> = breaks.iter().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "these break callers:\n{}", shown.join("\n"));
}

#[test]
fn every_schema_is_valid_and_stands_alone() {
    for (path, schema) in schemas().unwrap() {
        assert!(jsonschema::meta::is_valid(&schema), "{path}");
        jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(schema["$id"], format!("{BASE}{path}"));
    }
}

#[test]
fn every_request_has_its_schemas() {
    let schemas = schemas().unwrap();
    let registry = command::registry().unwrap();
    for path in schemas.keys() {
        let Some((folder, name)) = path.strip_suffix(".json").and_then(|path| path.split_once('/')) else {
            continue;
        };
        match folder {
            "commands" => assert!(registry.knows(name), "{name}"),
            "queries" => assert!(find(name).is_some(), "{name}"),
            _ => continue,
        }
        assert!(schemas.contains_key(&format!("replies/{name}.json")), "{name}");
    }
}

#[test]
fn the_asyncapi_document_refers_only_to_what_it_holds() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = asyncapi::document(&Contract::read().unwrap());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

const ID: &str = "0198c0de-0000-7000-8000-000000000001";

/// Whether the code takes this payload.
fn taken(name: &str, payload: &Map<String, Value>) -> bool {
    use crate::application::message::Message;
    use crate::application::query::{GetUser, ListEvents, ListUsers};

    let fields = || Fields::new(payload.clone());
    match name {
        GetUser::NAME => GetUser::read(fields()).is_ok(),
        ListUsers::NAME => ListUsers::read(fields()).is_ok(),
        ListEvents::NAME => ListEvents::read(fields()).is_ok(),
        _ => command::registry().unwrap().read(name, payload.clone()).unwrap().is_ok(),
    }
}

#[rstest]
#[case("user.create.v1", json!({ "email": "ada@example.com", "name": "Ada", "password": "correct horse" }))]
#[case("user.create.v1", json!({ "email": "ada@example.com", "name": "Ada", "password": "correct horse", "id": ID, "role": "admin" }))]
#[case("user.create.v1", json!({ "email": "ada@example.com", "name": "Ada", "password": "correct horse", "id": null, "role": null }))]
#[case("user.create.v1", json!({ "email": "ada@example.com", "name": "Ada", "password": "correct horse", "role": "root" }))]
#[case("user.create.v1", json!({ "email": "ada@example.com", "name": "Ada", "password": "correct horse", "more": 1 }))]
#[case("user.create.v1", json!({ "email": "ada@example.com", "name": "A", "password": "correct horse" }))]
#[case("user.create.v1", json!({ "email": "ada", "name": "Ada", "password": "correct horse" }))]
#[case("user.create.v1", json!({ "email": null, "name": "Ada", "password": "correct horse" }))]
#[case("user.create.v1", json!({ "email": "ada@example.com", "name": "Ada" }))]
#[case("user.update.v1", json!({ "id": ID, "name": "Ada" }))]
#[case("user.update.v1", json!({ "id": ID, "name": "Ada", "email": null, "expected_version": 1 }))]
#[case("user.update.v1", json!({ "id": ID, "name": null }))]
#[case("user.update.v1", json!({ "id": ID }))]
#[case("user.update.v1", json!({ "id": ID, "name": "Ada", "expected_version": 0 }))]
#[case("user.update.v1", json!({ "id": ID, "name": "Ada", "expected_version": "1" }))]
#[case("user.change_password.v1", json!({ "id": ID, "new_password": "correct horse" }))]
#[case("user.change_password.v1", json!({ "id": ID, "new_password": "correct horse", "current_password": "x" }))]
#[case("user.change_password.v1", json!({ "id": ID, "new_password": 12345678 }))]
#[case("user.change_role.v1", json!({ "id": ID, "role": "admin", "expected_version": null }))]
#[case("user.change_role.v1", json!({ "id": ID }))]
#[case("user.delete.v1", json!({ "id": ID }))]
#[case("user.delete.v1", json!({ "id": "ada" }))]
#[case("user.get.v1", json!({ "id": ID }))]
#[case("user.get.v1", json!({ "email": "ada@example.com", "id": null }))]
#[case("user.get.v1", json!({ "email": "ada@example.com", "id": ID }))]
#[case("user.get.v1", json!({}))]
#[case("user.list.v1", json!({}))]
#[case("user.list.v1", json!({ "page": 1, "per_page": 100, "sort": "name", "order": "asc", "role": "user", "search": "ada", "total": false }))]
#[case("user.list.v1", json!({ "per_page": 101 }))]
#[case("user.list.v1", json!({ "page": 0 }))]
#[case("user.list.v1", json!({ "sort": "age" }))]
#[case("user.list.v1", json!({ "search": "ad" }))]
#[case("user.list.v1", json!({ "total": 1 }))]
#[case("event.list.v1", json!({ "subject": ID, "after_sequence": 0, "limit": 500 }))]
#[case("event.list.v1", json!({ "subject": ID, "limit": 501 }))]
#[case("event.list.v1", json!({ "subject": ID, "after_sequence": -1 }))]
#[case("event.list.v1", json!({}))]
fn a_schema_takes_what_the_code_takes(#[case] name: &str, #[case] payload: Value) {
    let schemas = schemas().unwrap();
    let folder = if find(name).is_some() { "queries" } else { "commands" };
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schemas[&format!("{folder}/{name}.json")])
        .unwrap();
    let taken = taken(name, payload.as_object().unwrap());
    assert_eq!(validator.is_valid(&payload), taken, "{name} {payload}");
}
