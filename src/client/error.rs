//! What a call can come back with instead of its answer.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::events::Gap;

/// Why a call has no answer. Only [`Error::Refused`] is the worker's own word.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The worker looked at the request and said no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// It was sent, and no answer came. It may have been done: sending it again with the same
    /// `message_id` gets the stored answer or does it now, never twice.
    #[error("no answer to {request} {message_id} after {tries} tries in {waited:.1?}{}", Now(now))]
    TimedOut {
        /// The request's type, such as `user.create.v1`.
        request: String,
        /// What to send again.
        message_id: Uuid,
        /// How often it was handed to the broker.
        tries: u32,
        /// How long the call took.
        waited: Duration,
        /// What stands in the way at the end, if it is known.
        now: Option<Box<Unavailable>>,
    },
    /// It was never handed to the broker, or the broker turned it away: nothing was done.
    #[error("not sent: {0}")]
    Unavailable(#[from] Unavailable),
    /// An answer came that is not a reply of this contract; whether it was done is unknown.
    #[error("the reply to {message_id} cannot be read: {problem}")]
    BadReply {
        /// The request that was answered.
        message_id: Uuid,
        /// What is wrong with the reply; never its content.
        problem: BadReply,
    },
    /// The request cannot be written as a message.
    #[error("the request cannot be sent: {0}")]
    BadRequest(#[from] BadRequest),
    /// An event stream skipped some events of one user or session. The stream goes on;
    /// [`Client::missed`](super::Client::missed) fetches them.
    #[error("events missing: {0}")]
    Gap(Gap),
    /// An event stream lost its connection and has it back. Events of that time are missing; those
    /// of users seen before show as [`Error::Gap`], new users do not.
    #[error("the event stream was interrupted: events may be missing")]
    Interrupted,
    /// An event that is not one of this contract. The stream goes on.
    #[error("an event cannot be read: {0}")]
    BadEvent(BadReply),
}

impl Error {
    /// The refusal, if the worker refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

struct Now<'a>(&'a Option<Box<Unavailable>>);

impl fmt::Display for Now<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(reason) => write!(f, "; now: {reason}"),
            None => Ok(()),
        }
    }
}

/// Why nothing was sent.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// No connection to the broker.
    #[error("no connection to RabbitMQ at {host}: {source}")]
    Broker {
        /// Host and port, without credentials.
        host: String,
        /// What lapin says.
        source: lapin::Error,
    },
    /// The broker took too long to connect to, or to open a stream.
    #[error("RabbitMQ at {host} does not answer")]
    Silent {
        /// Host and port, without credentials.
        host: String,
    },
    /// An exchange or a queue is not there: no worker was ever started for this namespace.
    #[error(
        "`{object}` does not exist on the broker: is the namespace right, and was a worker ever started?"
    )]
    Missing {
        /// The object's name.
        object: String,
    },
    /// A queue is there, on a node that is down: it comes back with the node.
    #[error("`{object}` cannot be used at the moment: {source}")]
    Unreachable {
        /// The object's name.
        object: String,
        /// What the broker says.
        source: lapin::Error,
    },
    /// The command queue is full, or cannot store.
    #[error("the broker refuses to take more into `{object}`")]
    Full {
        /// The exchange's name.
        object: String,
    },
    /// The broker does not let this user send that.
    #[error("the broker turned the message away: {0}")]
    Rejected(lapin::Error),
    /// [`Client::close`](super::Client::close) was called.
    #[error("the client is closed")]
    Closed,
}

/// Why a request cannot become a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// Not a URL of the form `amqp://user:password@host:port/vhost`. The URL is not repeated here.
    #[error("not an AMQP URL: it should look like amqp://user:password@host:5672/vhost")]
    Url,
    /// The namespace, type or trace header is longer than AMQP's 255 bytes.
    #[error("{0} is longer than 255 bytes")]
    TooLong(&'static str),
    /// The payload does not serialise.
    #[error("the payload is no JSON object: {0}")]
    Payload(serde_json::Error),
    /// A `message_id` that is no UUIDv7 needs the `timestamp` it was first sent with.
    #[error("a message id that is not a UUIDv7 needs a timestamp beside it")]
    Timestamp,
}

/// What is wrong with a reply or an event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadReply {
    /// No JSON, or not of the expected shape.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Neither `data` nor `error`.
    #[error("it has neither data nor error")]
    Empty,
    /// An event's `sequence` is not a number.
    #[error("its sequence is not a number")]
    Sequence,
}

/// The worker's refusal, as it stands in the reply's `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of no it is.
    pub code: Code,
    /// For people.
    pub message: String,
    /// One entry per field or reason; may be empty.
    #[serde(default)]
    pub details: Vec<Detail>,
}

impl Refusal {
    /// Whether one of the details has this reason, such as `email_taken`.
    #[must_use]
    pub fn has_reason(&self, reason: &str) -> bool {
        self.details.iter().any(|detail| detail.reason == reason)
    }

    /// How long to wait before another try, where the worker says so (`RATE_LIMITED`).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let wait = self.details.iter().find_map(|detail| detail.retry_after_ms);
        wait.map(Duration::from_millis)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        for detail in &self.details {
            match &detail.field {
                Some(field) => write!(f, "; {field}: {}", detail.message)?,
                None => write!(f, "; {}", detail.message)?,
            }
        }
        Ok(())
    }
}

/// One reason of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The field it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// A stable name, such as `invalid_email`. New ones may be added.
    #[serde(default)]
    pub reason: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Milliseconds to wait, with `RATE_LIMITED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The kinds of refusal. A newer worker may know more: [`Code::Other`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Code {
    /// Malformed, unknown type or field, invalid value.
    BadRequest,
    /// Someone is required, or the token or password is wrong.
    Unauthorized,
    /// Known, but not allowed.
    Forbidden,
    /// No such user or session.
    NotFound,
    /// Taken e-mail or id, stale version, reused message id.
    Conflict,
    /// Too many tries.
    RateLimited,
    /// Past its deadline or outside the dedupe window.
    Expired,
    /// Given up by the worker.
    InternalError,
    /// A code this version of the client does not know.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::RateLimited => "RATE_LIMITED",
            Self::Expired => "EXPIRED",
            Self::InternalError => "INTERNAL_ERROR",
            Self::Other(code) => code,
        })
    }
}
