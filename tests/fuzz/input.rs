//! One message as a client could send it, and the line of a corpus that it is written as.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where a message comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    #[default]
    Command,
    Query,
    /// The queue of what the broker parked.
    Parked,
}

/// A message. `name` and `expect` stand in the corpus alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Input {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What becomes of it, as [`Verdict`](super::verdict::Verdict) says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expect: String,
    pub way: Way,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// A string is a long string, `{"bytes": "<hex>"}` one that need not be UTF-8, `{"short": …}` a short one; null
    /// is void; the rest is what it looks like.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
    #[serde(with = "written")]
    pub body: Vec<u8>,
}

impl Input {
    /// The line of a corpus.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers serialise")
    }

    /// As lapin hands it over.
    pub fn delivery(&self) -> Delivery {
        let mut delivery =
            Delivery::mock(1, ShortString::default(), ShortString::default(), false, self.body.clone());
        let mut properties = BasicProperties::default();
        if let Some(text) = &self.kind {
            properties = properties.with_type(short(text));
        }
        if let Some(text) = &self.message_id {
            properties = properties.with_message_id(short(text));
        }
        if let Some(text) = &self.correlation_id {
            properties = properties.with_correlation_id(short(text));
        }
        if let Some(text) = &self.reply_to {
            properties = properties.with_reply_to(short(text));
        }
        if let Some(text) = &self.content_type {
            properties = properties.with_content_type(short(text));
        }
        if let Some(text) = &self.user_id {
            properties = properties.with_user_id(short(text));
        }
        if let Some(seconds) = self.timestamp {
            properties = properties.with_timestamp(seconds);
        }
        if !self.headers.is_empty() {
            properties = properties.with_headers(table(&self.headers));
        }
        delivery.properties = properties;
        delivery
    }

    /// Cuts every text to what fits its AMQP type, so that input and delivery say the same.
    pub fn fit(mut self) -> Self {
        let texts = [
            &mut self.kind,
            &mut self.message_id,
            &mut self.correlation_id,
            &mut self.reply_to,
            &mut self.content_type,
            &mut self.user_id,
        ];
        for text in texts.into_iter().flatten() {
            text.truncate(text.floor_char_boundary(255));
        }
        self
    }
}

fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(255)].into()
}

fn table(fields: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(short(name), field(value));
    }
    table
}

fn field(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => AMQPValue::LongLongInt(whole),
            None => AMQPValue::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(list) => {
            AMQPValue::FieldArray(FieldArray::from(list.iter().map(field).collect::<Vec<_>>()))
        }
        Value::Object(map) => match map.iter().next() {
            Some((name, Value::String(text))) if name == "short" => AMQPValue::ShortString(short(text)),
            Some((name, Value::String(hex))) if name == "bytes" => {
                AMQPValue::LongString(LongString::from(written::unhex(hex).unwrap_or_default()))
            }
            _ => AMQPValue::FieldTable(table(map)),
        },
    }
}

/// A body in a corpus: a string, `{"hex": …}` where it is no UTF-8, `{"repeat": …, "times": n}`, or a list of those.
mod written {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, Serialize)]
    #[serde(untagged)]
    enum Part {
        Text(String),
        Hex { hex: String },
        Repeat { repeat: String, times: usize },
        List(Vec<Part>),
    }

    impl Part {
        fn bytes(&self) -> Option<Vec<u8>> {
            match self {
                Self::Text(text) => Some(text.as_bytes().to_vec()),
                Self::Hex { hex } => unhex(hex),
                Self::Repeat { repeat, times } => Some(repeat.repeat(*times).into_bytes()),
                Self::List(parts) => {
                    let parts: Option<Vec<_>> = parts.iter().map(Self::bytes).collect();
                    Some(parts?.concat())
                }
            }
        }
    }

    pub fn unhex(hex: &str) -> Option<Vec<u8>> {
        let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        pairs.iter().map(byte).collect()
    }

    pub fn serialize<S: Serializer>(body: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let part = match std::str::from_utf8(body) {
            Ok(text) => Part::Text(text.to_owned()),
            Err(_) => Part::Hex { hex: body.iter().map(|byte| format!("{byte:02x}")).collect() },
        };
        part.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Part::deserialize(deserializer)?.bytes().ok_or_else(|| D::Error::custom("an odd run of hex digits"))
    }
}
