//! How the domain's values look in JSON Schema. The domain itself knows nothing of schemas.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::domain::{Email, Id, Role, UserName};

/// The HTML standard's pattern for `<input type=email>`.
const EMAIL_PATTERN: &str = "^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\
    (?:\\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$";

impl<T> JsonSchema for Id<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "uuid" })
    }
}

impl JsonSchema for Email {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Email".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // No `format`: RFC 5321, which it stands for, refuses some of what HTML allows.
        json_schema!({
            "type": "string",
            "minLength": 3,
            "maxLength": Email::MAX_BYTES,
            "pattern": EMAIL_PATTERN,
            "description": "An e-mail address as HTML has it; compared without regard to case"
        })
    }
}

impl JsonSchema for UserName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "UserName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": UserName::MIN_CHARACTERS,
            "maxLength": UserName::MAX_CHARACTERS
        })
    }
}

impl JsonSchema for Role {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Role".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": [Self::User.as_str(), Self::Admin.as_str()] })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("ada@example.com")]
    #[case("ada..b@localhost")]
    #[case("a!#$%&'*+/=?^_`{|}~-@x.io")]
    #[case("a@x-y.io")]
    #[case("a@-x.io")]
    #[case("a@x..io")]
    #[case("a b@x.io")]
    #[case("@x.io")]
    #[case("a@b@c")]
    fn the_pattern_and_the_parser_agree(#[case] text: &str) {
        let schema = Email::json_schema(&mut SchemaGenerator::default()).to_value();
        assert_eq!(jsonschema::is_valid(&schema, &json!(text)), Email::parse(text).is_ok(), "{text}");
    }
}
