//! Writes schemas as text that reads well and never changes by itself: keys stand in one order, whatever
//! order the map has them in.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// What comes first; the rest follows by the alphabet, and last the `$defs`.
const ORDER: &[&str] = &[
    "$schema",
    "$id",
    "$ref",
    "asyncapi",
    "id",
    "info",
    "defaultContentType",
    "servers",
    "channels",
    "operations",
    "components",
    "name",
    "title",
    "address",
    "action",
    "channel",
    "version",
    "summary",
    "description",
    "type",
    "properties",
    "required",
    "additionalProperties",
];
/// A list of plain values up to this many characters stays on its line.
const LINE: usize = 90;

fn entries(object: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let rank = |key: &str| match key {
        "$defs" => ORDER.len() + 1,
        _ => ORDER.iter().position(|first| *first == key).unwrap_or(ORDER.len()),
    };
    let mut entries: Vec<_> = object.iter().collect();
    entries.sort_by_key(|(key, _)| (rank(key), *key));
    entries
}

/// A whole file of JSON.
pub(super) fn json(value: &Value) -> String {
    let mut text = String::new();
    write_json(&mut text, value, 0);
    text.push('\n');
    text
}

fn write_json(out: &mut String, value: &Value, depth: usize) {
    let pad = "  ".repeat(depth + 1);
    let end = "  ".repeat(depth);
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (n, (key, value)) in entries(object).into_iter().enumerate() {
                let open = if n == 0 { "{" } else { "," };
                let _ = write!(out, "{open}\n{pad}{}: ", Value::from(key.as_str()));
                write_json(out, value, depth + 1);
            }
            let _ = write!(out, "\n{end}}}");
        }
        Value::Array(items) if items.iter().any(is_nested) || value.to_string().len() > LINE => {
            for (n, item) in items.iter().enumerate() {
                let _ = write!(out, "{}\n{pad}", if n == 0 { "[" } else { "," });
                write_json(out, item, depth + 1);
            }
            let _ = write!(out, "\n{end}]");
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(ToString::to_string).collect();
            let _ = write!(out, "[{}]", items.join(", "));
        }
        plain => {
            let _ = write!(out, "{plain}");
        }
    }
}

fn is_nested(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

/// A whole file of YAML.
pub(super) fn yaml(value: &Value) -> String {
    let mut text = "# Made by `roster schema export` from the types; not to be edited.\n".to_owned();
    write_yaml(&mut text, value, 0);
    text
}

/// The block of a map or a list that is not empty, each line at `depth`.
fn write_yaml(out: &mut String, value: &Value, depth: usize) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(object) => {
            for (key, value) in entries(object) {
                let _ = write!(out, "{pad}{}:", scalar(key));
                if is_block(value) {
                    out.push('\n');
                    write_yaml(out, value, depth + 1);
                } else {
                    let _ = writeln!(out, " {}", inline(value));
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if is_block(item) {
                    let mut block = String::new();
                    write_yaml(&mut block, item, depth + 1);
                    // The first line of the block shares the dash's.
                    let _ = write!(out, "{pad}- {}", block.trim_start());
                } else {
                    let _ = writeln!(out, "{pad}- {}", inline(item));
                }
            }
        }
        plain => {
            let _ = writeln!(out, "{pad}{}", inline(plain));
        }
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(object) => !object.is_empty(),
        Value::Array(items) => items.iter().any(is_nested) || value.to_string().len() > LINE,
        _ => false,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        // JSON is YAML.
        plain => plain.to_string(),
    }
}

/// Bare where nothing in it could mean something else, else in quotes, as JSON has them.
fn scalar(text: &str) -> String {
    let bare = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '$' || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "$_./- ".contains(c))
        && !text.ends_with(' ')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if bare { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_has_its_keys_in_one_order_and_can_be_read_back() {
        let value =
            json!({ "b": 1, "type": ["string", "null"], "$id": "x", "a": [{}, { "c": [] }], "e": {} });
        let text = json(&value);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(
            text.starts_with("{\n  \"$id\": \"x\",\n  \"type\": [\"string\", \"null\"],\n  \"a\""),
            "{text}"
        );
    }

    #[test]
    fn yaml_quotes_what_could_be_misread() {
        let value = json!({
            "version": "1.0", "no": "no", "text": "a: b # c", "null": null, "list": ["a", "1"],
            "$ref": "#/x", "deep": [{ "name": "x", "b": { "c": true } }, [1, { "d": 2 }]], "none": {}
        });
        let expected = r##"# Made by `roster schema export` from the types; not to be edited.
$ref: "#/x"
version: "1.0"
deep:
  - name: x
    b:
      c: true
  - - 1
    - d: 2
list: [a, "1"]
"no": "no"
none: {}
"null": null
text: "a: b # c"
"##;
        assert_eq!(yaml(&value), expected);
    }
}
