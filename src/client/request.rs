//! What can be asked, and what comes back.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::application::message::Message;
use crate::application::{query, registry};

use super::error::{BadReply, Refusal};

/// A request that changes something. The commands of the contract are such; implement it for
/// payloads of your own to be independent of their Rust types.
pub trait Command: Serialize + Send {
    /// The message's type, such as `user.create.v1`.
    const NAME: &'static str;
    /// What the reply's `data` holds.
    type Reply: DeserializeOwned;
}

impl<C: registry::Command> Command for C {
    const NAME: &'static str = <C as Message>::NAME;
    type Reply = C::Data;
}

/// A request that only reads. The queries of the contract are such.
pub trait Query: Serialize + Send {
    /// The message's type, such as `user.get.v1`.
    const NAME: &'static str;
    /// What the reply's `data` holds.
    type Reply: DeserializeOwned;
    /// What the reply's `meta` holds, where there is one.
    type Meta: DeserializeOwned;
}

impl<Q: query::Query> Query for Q {
    const NAME: &'static str = <Q as Message>::NAME;
    type Reply = Q::Data;
    type Meta = Q::Meta;
}

/// How one call differs from the client's [`Options`](super::Options).
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// The idempotency key. Left out, the client makes a UUIDv7. Give the one of an earlier call to
    /// get that call's answer.
    pub message_id: Option<Uuid>,
    /// Needed beside a `message_id` that is not a UUIDv7: the time it was first sent with, in whole
    /// seconds.
    pub timestamp: Option<DateTime<Utc>>,
    /// How long one try waits for its answer.
    pub timeout: Option<Duration>,
    /// How many tries, the first included.
    pub attempts: Option<u32>,
    /// How long the request may be executed at all.
    pub deadline: Option<Duration>,
    /// The access token of the user on whose behalf this is sent.
    pub token: Option<SecretString>,
    /// W3C Trace Context: continued into the reply and the events.
    pub traceparent: Option<String>,
    /// W3C Trace Context, the vendors' part.
    pub tracestate: Option<String>,
}

/// A command's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply<T> {
    /// What the command came to.
    pub data: T,
    /// True where an earlier answer to the same `message_id` came again.
    pub replayed: bool,
    /// The `message_id` it was sent with.
    pub message_id: Uuid,
}

/// A query's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer<T, M> {
    /// What was found.
    pub data: T,
    /// About the page, with queries that answer in pages.
    pub meta: Option<M>,
}

/// A reply as it came, refusals included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawReply {
    /// The reply's bytes: one JSON object.
    pub body: Vec<u8>,
    /// True where an earlier answer to the same `message_id` came again.
    pub replayed: bool,
    /// The `message_id` the request was sent with.
    pub message_id: Uuid,
}

#[derive(Deserialize)]
struct Envelope<T, M> {
    #[serde(default = "Option::default")]
    data: Option<T>,
    #[serde(default = "Option::default")]
    meta: Option<M>,
    #[serde(default)]
    error: Option<Refusal>,
}

impl RawReply {
    /// The refusal in it, if it is one.
    ///
    /// # Errors
    /// When the reply is not one of this contract.
    pub fn refusal(&self) -> Result<Option<Refusal>, BadReply> {
        Ok(self.read::<IgnoredAny, IgnoredAny>()?.err())
    }

    /// What it says: an answer or a refusal.
    ///
    /// # Errors
    /// When the reply is not one of this contract, or its `data` is not a `T`.
    pub fn read<T, M>(&self) -> Result<Result<Answer<T, M>, Refusal>, BadReply>
    where
        T: DeserializeOwned,
        M: DeserializeOwned,
    {
        let envelope: Envelope<T, M> = serde_json::from_slice(&self.body)?;
        match (envelope.data, envelope.error) {
            (_, Some(refusal)) => Ok(Err(refusal)),
            (Some(data), None) => Ok(Ok(Answer { data, meta: envelope.meta })),
            (None, None) => Err(BadReply::Empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::dto::PageMeta;
    use crate::client::error::Code;

    fn reply(body: &str) -> RawReply {
        RawReply { body: body.as_bytes().to_vec(), replayed: false, message_id: Uuid::nil() }
    }

    #[test]
    fn data_and_meta_are_read() {
        let page = reply(r#"{"data":[1,2],"meta":{"per_page":2,"next_cursor":null}}"#);
        let answer = page.read::<Vec<u32>, PageMeta>().unwrap().unwrap();
        assert_eq!(answer.data, [1, 2]);
        let meta = answer.meta.unwrap();
        assert_eq!((meta.per_page, meta.total, meta.next_cursor), (2, None, None));
        assert_eq!(page.refusal().unwrap(), None);
    }

    #[test]
    fn a_reply_without_meta_is_an_answer() {
        let answer = reply(r#"{"data":1}"#).read::<u32, PageMeta>().unwrap().unwrap();
        assert_eq!((answer.data, answer.meta), (1, None));
    }

    #[test]
    fn a_refusal_keeps_code_reason_and_field() {
        let refused = reply(
            r#"{"error":{"code":"CONFLICT","message":"taken","details":[
                {"field":"email","reason":"email_taken","message":"is taken"}]}}"#,
        );
        let refusal = refused.read::<u32, IgnoredAny>().unwrap().unwrap_err();
        assert_eq!(refusal.code, Code::Conflict);
        assert!(refusal.has_reason("email_taken"));
        assert_eq!(refusal.to_string(), "CONFLICT: taken; email: is taken");
    }

    #[test]
    fn a_code_from_the_future_is_kept_as_it_is() {
        let refused = reply(r#"{"error":{"code":"TEAPOT","message":"short and stout"}}"#);
        let refusal = refused.refusal().unwrap().unwrap();
        assert_eq!(refusal.code, Code::Other("TEAPOT".into()));
        assert_eq!(serde_json::to_value(&refusal.code).unwrap(), serde_json::json!("TEAPOT"));
    }

    #[test]
    fn rate_limits_say_how_long_to_wait() {
        let refused = reply(
            r#"{"error":{"code":"RATE_LIMITED","message":"slow","details":[{"retry_after_ms":1500}]}}"#,
        );
        let refusal = refused.refusal().unwrap().unwrap();
        assert_eq!(refusal.retry_after(), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn neither_data_nor_error_is_no_reply() {
        assert!(matches!(reply("{}").read::<u32, IgnoredAny>(), Err(BadReply::Empty)));
        assert!(matches!(reply("nonsense").read::<u32, IgnoredAny>(), Err(BadReply::Json(_))));
    }
}
