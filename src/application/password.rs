//! A password on its way from a message to the hash.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};

/// A password in the clear: redacted in `Debug`, wiped on drop. Serialised only by callers that send it.
#[derive(Debug, Clone)]
pub struct Password(SecretString);

impl Password {
    /// The clear text, for the hash alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<SecretString> for Password {
    fn from(secret: SecretString) -> Self {
        Self(secret)
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self(SecretString::from(text))
    }
}

impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl JsonSchema for Password {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Password".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 1024,
            "writeOnly": true,
            "description": "8 to 1024 bytes of UTF-8, any character but U+0000"
        })
    }
}
