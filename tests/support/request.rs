//! What a caller sends and gets: a request with any properties whatever, and the reply envelope.

use std::collections::BTreeSet;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use uuid::Uuid;

/// Where a request goes: the exchange is `<namespace>.commands` or `<namespace>.queries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Command,
    Query,
}

/// One request. [`Request::new`] makes a proper one; the other methods bend it.
#[derive(Clone, Debug)]
pub struct Request {
    pub way: Way,
    pub kind: Option<String>,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub content_type: Option<String>,
    pub user_id: Option<String>,
    pub expiration: Option<String>,
    pub timestamp: Option<u64>,
    pub headers: FieldTable,
    pub body: Vec<u8>,
}

const QUERIES: [&str; 5] = ["user.get.v1", "user.list.v1", "session.list.v1", "event.list.v1", "keys.get.v1"];

impl Request {
    /// A proper request: a fresh UUIDv7, a correlation id of its own, direct reply-to, anonymous.
    pub fn new(kind: &str, body: Value) -> Self {
        let way = match QUERIES.contains(&kind) {
            true => Way::Query,
            false => Way::Command,
        };
        Self {
            way,
            kind: Some(kind.to_owned()),
            message_id: Some(Uuid::now_v7().to_string()),
            correlation_id: Some(Uuid::new_v4().to_string()),
            reply_to: Some("amq.rabbitmq.reply-to".to_owned()),
            content_type: Some("application/json".to_owned()),
            user_id: None,
            expiration: None,
            timestamp: None,
            headers: FieldTable::default(),
            body: body.to_string().into_bytes(),
        }
    }

    /// The same request sent once more: everything but the correlation id stays.
    pub fn again(&self) -> Self {
        Self { correlation_id: Some(Uuid::new_v4().to_string()), ..self.clone() }
    }

    pub fn kind(mut self, kind: impl Into<Option<&'static str>>) -> Self {
        self.kind = kind.into().map(str::to_owned);
        self
    }

    pub fn id(mut self, id: impl ToString) -> Self {
        self.message_id = Some(id.to_string());
        self
    }

    pub fn no_id(mut self) -> Self {
        self.message_id = None;
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    pub fn reply_to(mut self, queue: impl Into<String>) -> Self {
        self.reply_to = Some(queue.into());
        self
    }

    pub fn no_reply(mut self) -> Self {
        self.reply_to = None;
        self
    }

    pub fn content_type(mut self, content_type: Option<&str>) -> Self {
        self.content_type = content_type.map(str::to_owned);
        self
    }

    pub fn correlation(mut self, id: Option<&str>) -> Self {
        self.correlation_id = id.map(str::to_owned);
        self
    }

    pub fn user(mut self, user: Option<String>) -> Self {
        self.user_id = user;
        self
    }

    pub fn timestamp(mut self, seconds: u64) -> Self {
        self.timestamp = Some(seconds);
        self
    }

    pub fn header(mut self, name: &str, value: AMQPValue) -> Self {
        self.headers.insert(name.into(), value);
        self
    }

    /// The `deadline` header, a string.
    pub fn deadline(self, time: &str) -> Self {
        self.header("deadline", AMQPValue::LongString(time.into()))
    }

    /// Correlation id that the reply will carry.
    pub fn correlation_key(&self) -> String {
        let id = self.correlation_id.as_ref().or(self.message_id.as_ref());
        id.cloned().unwrap_or_default()
    }

    pub fn properties(&self) -> BasicProperties {
        let mut properties = BasicProperties::default().with_delivery_mode(2);
        if let Some(value) = &self.kind {
            properties = properties.with_type(value.as_str().into());
        }
        if let Some(value) = &self.message_id {
            properties = properties.with_message_id(value.as_str().into());
        }
        if let Some(value) = &self.correlation_id {
            properties = properties.with_correlation_id(value.as_str().into());
        }
        if let Some(value) = &self.reply_to {
            properties = properties.with_reply_to(value.as_str().into());
        }
        if let Some(value) = &self.content_type {
            properties = properties.with_content_type(value.as_str().into());
        }
        if let Some(value) = &self.user_id {
            properties = properties.with_user_id(value.as_str().into());
        }
        if let Some(value) = &self.expiration {
            properties = properties.with_expiration(value.as_str().into());
        }
        if let Some(value) = self.timestamp {
            properties = properties.with_timestamp(value);
        }
        if !self.headers.inner().is_empty() {
            properties = properties.with_headers(self.headers.clone());
        }
        properties
    }
}

/// One reply as it came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub correlation_id: Option<String>,
    /// The header `replayed`; `None` where it is missing or no boolean.
    pub replayed: Option<bool>,
    pub content_type: Option<String>,
    pub kind: Option<String>,
    pub traceparent: Option<String>,
    pub body: Value,
}

impl Reply {
    pub fn new(properties: &BasicProperties, body: &[u8]) -> Self {
        let header = |name: &str| {
            let headers = properties.headers().as_ref()?;
            headers.inner().get(name).cloned()
        };
        Self {
            correlation_id: properties.correlation_id().as_ref().map(ToString::to_string),
            replayed: header("replayed").and_then(|value| value.as_bool()),
            content_type: properties.content_type().as_ref().map(ToString::to_string),
            kind: properties.kind().as_ref().map(ToString::to_string),
            traceparent: header("traceparent").and_then(|value| match value {
                AMQPValue::LongString(text) => Some(text.to_string()),
                AMQPValue::ShortString(text) => Some(text.to_string()),
                _ => None,
            }),
            body: serde_json::from_slice(body).unwrap_or(Value::Null),
        }
    }

    /// The `data` of a success; fails the test where it is none.
    #[track_caller]
    pub fn data(&self) -> &Value {
        match self.body.get("data") {
            Some(data) if self.body.get("error").is_none() => data,
            _ => panic!("a success was expected, not {}", self.body),
        }
    }

    #[track_caller]
    pub fn meta(&self) -> &Value {
        self.body.get("meta").unwrap_or_else(|| panic!("meta was expected, not {}", self.body))
    }

    /// The error's code; fails the test where there is none.
    #[track_caller]
    pub fn code(&self) -> &str {
        match self.body["error"]["code"].as_str() {
            Some(code) if self.body.get("data").is_none() => code,
            _ => panic!("a refusal was expected, not {}", self.body),
        }
    }

    pub fn is_success(&self) -> bool {
        self.body.get("data").is_some()
    }

    /// Every `(field, reason)` of the details; the field is empty where the detail names none.
    pub fn reasons(&self) -> BTreeSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let details = self.body["error"]["details"].as_array();
        details
            .into_iter()
            .flatten()
            .map(|detail| (text(&detail["field"]), text(&detail["reason"])))
            .collect()
    }

    /// Code and every reason, as `CONFLICT email_taken`: what most tests compare.
    pub fn refusal(&self) -> String {
        let reasons: BTreeSet<String> = self.reasons().into_iter().map(|pair| pair.1).collect();
        let mut text = self.code().to_owned();
        for reason in reasons {
            text.push(' ');
            text.push_str(&reason);
        }
        text
    }

    #[track_caller]
    pub fn id(&self) -> Uuid {
        self.data()["id"].as_str().unwrap().parse().unwrap()
    }

    #[track_caller]
    pub fn version(&self) -> i64 {
        self.data()["version"].as_i64().unwrap()
    }
}
