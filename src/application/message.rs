//! Messages as they come in, before and after their properties were understood.

use chrono::{DateTime, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::Detail;
use super::fields::Fields;

/// A request of the contract: its name and version, its payload and what answers it.
pub trait Message: Serialize + JsonSchema + Send + Sized + 'static {
    /// `user.create.v1`
    const NAME: &'static str;
    /// The reply's `data`.
    type Data: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
    /// The reply's `meta`; [`NoMeta`] where there is none.
    type Meta: Serialize + DeserializeOwned + JsonSchema + Send + 'static;

    /// # Errors
    /// Everything that is wrong with the payload.
    fn read(fields: Fields) -> Result<Self, Vec<Detail>>;
}

/// The reply has no `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoMeta {}

/// The properties of a message that Roster reads (CONTRACT.md §2), as they came.
/// What cannot be read as its AMQP type is `Unreadable`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Properties {
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
    /// The broker has checked it against the connection's user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Header>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// A token: never stored.
    #[serde(skip)]
    pub authorization: Option<Header>,
}

/// A header that should be a string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Header {
    Text(String),
    NotText {},
}

/// A message as the broker gave it.
#[derive(Debug, Clone, Default)]
pub struct RawMessage {
    pub properties: Properties,
    pub body: Vec<u8>,
}

/// What makes a message the same message: its id and the day of its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKey {
    pub message_id: Uuid,
    /// UTC; from the UUIDv7 or the `timestamp`, so it is the same for every resend.
    pub issued_on: NaiveDate,
}

/// A keyed digest of a body's bytes; see [`Vault::fingerprint`](super::ports::Vault::fingerprint).
pub type Fingerprint = [u8; 32];

/// W3C Trace Context, passed on as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    pub parent: Option<String>,
    pub state: Option<String>,
}

impl Trace {
    /// Longer ones are dropped: they would not fit what carries them on.
    const MAX_STATE: usize = 512;

    /// Keeps a well-formed `traceparent`, and the `tracestate` beside it.
    #[must_use]
    pub fn read(properties: &Properties) -> Self {
        let parent = properties.traceparent.clone().filter(|text| is_traceparent(text));
        let state = properties
            .tracestate
            .clone()
            .filter(|text| parent.is_some() && text.len() <= Self::MAX_STATE)
            .filter(|text| text.bytes().all(|b| (0x20..0x7f).contains(&b)));
        Self { parent, state }
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, or a later version's longer form within 128 bytes.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.splitn(5, '-');
    text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_graphic())
        && parts.next().is_some_and(|part| hex(part, 2) && part != "ff")
        && parts.next().is_some_and(|part| hex(part, 32) && part.bytes().any(|b| b != b'0'))
        && parts.next().is_some_and(|part| hex(part, 16) && part.bytes().any(|b| b != b'0'))
        && parts.next().is_some_and(|part| hex(part, 2))
        && (parts.next().is_none() || !text.starts_with("00"))
}

/// The time a UUIDv7 carries.
#[must_use]
pub fn time_of(id: Uuid) -> Option<DateTime<Utc>> {
    if id.get_version_num() != 7 {
        return None;
    }
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true)]
    #[case("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true)]
    #[case("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false)]
    #[case("00-00000000000000000000000000000000-b7ad6b7169203331-01", false)]
    #[case("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false)]
    #[case("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false)]
    #[case("nonsense\0", false)]
    fn only_a_well_formed_traceparent_is_passed_on(#[case] text: &str, #[case] kept: bool) {
        let properties = Properties { traceparent: Some(text.into()), ..Properties::default() };
        assert_eq!(Trace::read(&properties).parent.is_some(), kept);
    }

    #[test]
    fn only_a_version_7_uuid_carries_a_time() {
        assert!(time_of(Uuid::now_v7()).is_some());
        assert_eq!(time_of(Uuid::new_v4()), None);
    }

    #[test]
    fn a_token_is_never_stored_with_the_properties() {
        let properties =
            Properties { authorization: Some(Header::Text("Bearer secret".into())), ..Properties::default() };
        assert!(!serde_json::to_string(&properties).unwrap().contains("secret"));
    }
}
