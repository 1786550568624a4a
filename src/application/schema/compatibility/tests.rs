//! What each kind of change is caught as, and that additions pass.

use rstest::rstest;
use serde_json::json;

use super::*;

/// The command as it was published.
fn command() -> Value {
    json!({
        "type": "object",
        "properties": {
            "email": { "type": "string", "minLength": 3, "maxLength": 254, "pattern": "@" },
            "role": { "type": "string", "enum": ["user", "admin"] },
            "page": { "type": ["integer", "null"], "minimum": 1, "maximum": 100 },
            "tags": { "type": "array", "items": { "type": "string", "maxLength": 10 } }
        },
        "required": ["email"],
        "additionalProperties": false,
        "anyOf": [{ "required": ["role"] }, { "required": ["page"] }]
    })
}

/// The reply as it was published.
fn reply() -> Value {
    json!({
        "oneOf": [
            {
                "type": "object",
                "properties": { "data": { "$ref": "#/$defs/User" } },
                "required": ["data"]
            },
            { "$ref": "#/$defs/Error" }
        ],
        "$defs": {
            "User": {
                "type": "object",
                "properties": {
                    "id": { "type": "string", "format": "uuid" },
                    "role": { "type": "string", "enum": ["user", "admin"] },
                    "version": { "type": "integer", "minimum": 1 },
                    "nick": { "type": "string", "maxLength": 10 }
                },
                "required": ["id", "role", "version"]
            },
            "Error": {
                "type": "object",
                "properties": { "reason": { "anyOf": [
                    { "type": "string", "enum": ["a", "b"] },
                    { "type": "string" }
                ]}},
                "required": ["reason"]
            }
        }
    })
}

/// The breaks, as text, after what stands at `pointer` was replaced by `value`; null takes it away.
fn after(path: &str, schema: &Value, pointer: &str, value: Value) -> Vec<String> {
    let mut changed = schema.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match changed.pointer_mut(parent).unwrap() {
        Value::Object(fields) if value.is_null() => drop(fields.remove(name).unwrap()),
        Value::Object(fields) => drop(fields.insert(name.to_owned(), value)),
        _ => panic!("{pointer} is in no object"),
    }
    let old = BTreeMap::from([(path.to_owned(), schema.clone())]);
    let new = BTreeMap::from([(path.to_owned(), changed)]);
    compare(&old, &new).iter().map(ToString::to_string).collect()
}

#[rstest]
#[case::field_removed("/properties/role", json!(null), "#/role: the field is gone")]
#[case::type_changed("/properties/email/type", json!("integer"), "#/email: the type was string, and is integer")]
#[case::null_refused("/properties/page/type", json!("integer"), "#/page: the type was integer or null, and is integer")]
#[case::newly_required("/required", json!(["email", "tags"]), "#/tags: the field could be left out, and is required now")]
#[case::value_removed("/properties/role/enum", json!(["user"]), "#/role: the value \"admin\" is gone")]
#[case::values_restricted("/properties/email/enum", json!(["a@b"]), "#/email: any value was taken, and now only listed ones")]
#[case::shorter("/properties/email/maxLength", json!(100), "#/email: maxLength was 254, and is 100: tighter")]
#[case::longer("/properties/email/minLength", json!(5), "#/email: minLength was 3, and is 5: tighter")]
#[case::smaller("/properties/page/maximum", json!(50), "#/page: maximum was 100, and is 50: tighter")]
#[case::a_new_limit("/properties/tags/maxItems", json!(3), "#/tags: maxItems was not set, and is 3: tighter")]
#[case::in_a_list("/properties/tags/items/maxLength", json!(5), "#/tags/*: maxLength was 10, and is 5: tighter")]
#[case::pattern("/properties/email/pattern", json!("@.+"), "#/email: pattern was \"@\", and is \"@.+\": tighter")]
#[case::an_alternative_gone("/anyOf", json!([{ "required": ["role"] }]), "#/role: the field could be left out, and is required now")]
fn a_request_that_was_good_stays_good(#[case] at: &str, #[case] value: Value, #[case] caught: &str) {
    let found = after("commands/x.v1.json", &command(), at, value);
    assert_eq!(found, [format!("commands/x.v1.json{caught}")]);
}

#[test]
fn a_request_that_took_any_field_is_not_closed() {
    let mut open = command();
    open["additionalProperties"] = json!(true);
    let found = after("queries/x.v1.json", &open, "/additionalProperties", json!(false));
    assert_eq!(found, ["queries/x.v1.json#: other fields were taken, and are refused now"]);
}

#[rstest]
#[case::field_removed("/$defs/User/properties/nick", json!(null), "#/data/nick: the field is gone")]
#[case::type_changed("/$defs/User/properties/version/type", json!("string"), "#/data/version: the type was integer, and is string")]
#[case::may_be_null("/$defs/User/properties/id/type", json!(["string", "null"]), "#/data/id: the type was string, and is null or string")]
#[case::may_be_absent("/$defs/User/required", json!(["id", "role"]), "#/data/version: the field was always there, and may be absent now")]
#[case::value_removed("/$defs/User/properties/role/enum", json!(["user"]), "#/data/role: the value \"admin\" is gone")]
#[case::values_opened("/$defs/Error/properties/reason", json!({ "type": "string" }), "#/reason: the value \"a\" is gone")]
#[case::longer("/$defs/User/properties/nick/maxLength", json!(20), "#/data/nick: maxLength was 10, and is 20: looser")]
#[case::no_limit("/$defs/User/properties/nick/maxLength", json!(null), "#/data/nick: maxLength was 10, and is not set: looser")]
#[case::smaller("/$defs/User/properties/version/minimum", json!(0), "#/data/version: minimum was 1, and is 0: looser")]
#[case::format("/$defs/User/properties/id/format", json!(null), "#/data/id: format was \"uuid\", and is not set: looser")]
fn an_answer_holds_what_it_held(#[case] at: &str, #[case] value: Value, #[case] caught: &str) {
    let found = after("replies/x.v1.json", &reply(), at, value);
    assert_eq!(found.first(), Some(&format!("replies/x.v1.json{caught}")), "{found:?}");
}

#[rstest]
#[case::a_field("/properties/new", json!({ "type": "string" }))]
#[case::a_value("/properties/role/enum", json!(["user", "admin", "guest"]))]
#[case::any_value("/properties/role", json!({ "type": "string", "enum": ["user", "admin"], "description": "x" }))]
#[case::no_longer_required("/required", json!([]))]
#[case::a_looser_limit("/properties/email/maxLength", json!(300))]
#[case::no_limit("/properties/email/maxLength", json!(null))]
#[case::another_type("/properties/email/type", json!(["string", "null"]))]
#[case::a_number("/properties/page/type", json!(["number", "null"]))]
#[case::an_alternative("/anyOf", json!([{ "required": ["role"] }, { "required": ["page"] }, {}]))]
#[case::no_alternatives("/anyOf", json!(null))]
#[case::words("/description", json!("another one"))]
fn what_is_added_to_a_request_passes(#[case] at: &str, #[case] value: Value) {
    assert_eq!(after("commands/x.v1.json", &command(), at, value), Vec::<String>::new());
}

#[rstest]
#[case::a_field("/$defs/User/properties/new", json!({ "type": "string" }))]
#[case::a_value("/$defs/User/properties/role/enum", json!(["user", "admin", "guest"]))]
#[case::an_open_value("/$defs/Error/properties/reason/anyOf", json!([{ "type": "string", "enum": ["a", "b", "c"] }, { "type": "string" }]))]
#[case::always_there("/$defs/User/required", json!(["id", "role", "version", "nick"]))]
#[case::a_tighter_limit("/$defs/User/properties/nick/maxLength", json!(5))]
#[case::a_new_limit("/$defs/User/properties/id/maxLength", json!(36))]
fn what_is_added_to_an_answer_passes(#[case] at: &str, #[case] value: Value) {
    assert_eq!(after("replies/x.v1.json", &reply(), at, value), Vec::<String>::new());
}

#[test]
fn a_message_may_come_but_not_go() {
    let one = BTreeMap::from([("events/x.v1.json".to_owned(), json!({}))]);
    assert_eq!(compare(&BTreeMap::new(), &one), []);
    let gone = Break { at: "events/x.v1.json".to_owned(), change: Change::Gone };
    assert_eq!(compare(&one, &BTreeMap::new()), [gone]);
}

#[test]
fn a_type_that_refers_to_itself_comes_to_an_end() {
    let tree = |limit: u32| {
        json!({ "$ref": "#/$defs/Tree", "$defs": { "Tree": { "type": "object", "properties": {
            "name": { "type": "string", "maxLength": limit },
            "children": { "type": "array", "items": { "$ref": "#/$defs/Tree" } }
        }}}})
    };
    let breaks = compare_one("commands/x.v1.json", &tree(10), &tree(5));
    let places: Vec<_> = breaks.iter().map(|one| one.at.as_str()).collect();
    assert_eq!(places, ["commands/x.v1.json#/children/*/name", "commands/x.v1.json#/name"]);
    assert_eq!(compare_one("commands/x.v1.json", &tree(10), &tree(10)), []);
}
