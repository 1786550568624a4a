//! Refusals, and the one mapping to wire codes (CONTRACT.md §3) and to retry or dead letter.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain::{InvalidValue, UserError};

/// The kind of a refusal. Callers decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    RateLimited,
    Expired,
    InternalError,
}

impl Code {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::RateLimited => "RATE_LIMITED",
            Self::Expired => "EXPIRED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
}

/// What exactly is wrong. More may be added, so callers must bear unknown ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = super::schema::leave_open)]
pub enum Reason {
    MalformedJson,
    UnknownType,
    UnknownField,
    Missing,
    TooShort,
    TooLong,
    TooLarge,
    InvalidEmail,
    InvalidUuid,
    InvalidValue,
    UnsupportedContentType,
    MissingMessageId,
    MissingToken,
    InvalidToken,
    TokenExpired,
    InvalidCredentials,
    NotAllowed,
    EmailTaken,
    IdTaken,
    VersionMismatch,
    MessageIdReused,
    DeadlinePassed,
    OutsideDedupeWindow,
}

/// One thing that is wrong with a request. Never echoes a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detail {
    /// The payload's field, the AMQP property or the header it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Cow<'static, str>>,
    pub reason: Reason,
    /// For people; may change.
    pub message: Cow<'static, str>,
    /// With `RATE_LIMITED`: when trying again makes sense, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Detail {
    #[must_use]
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        reason: Reason,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: Some(field.into()), reason, message: message.into(), retry_after_ms: None }
    }

    fn bare(reason: Reason, message: &'static str) -> Self {
        Self { field: None, reason, message: message.into(), retry_after_ms: None }
    }
}

/// An answer that says no. It is a value, not a failure: nothing went wrong inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Error)]
#[error("{code:?}: {message}")]
pub struct Refusal {
    pub code: Code,
    /// For people; may change.
    pub message: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Detail>,
}

impl Refusal {
    #[must_use]
    pub const fn invalid(details: Vec<Detail>) -> Self {
        Self { code: Code::BadRequest, message: Cow::Borrowed("validation failed"), details }
    }

    #[must_use]
    pub fn unauthorized(reason: Reason) -> Self {
        let message = match reason {
            Reason::InvalidCredentials => "the credentials are wrong",
            Reason::MissingToken => "this needs an access token or a known service",
            Reason::TokenExpired => "the access token has expired",
            _ => "the access token is not valid",
        };
        Self {
            code: Code::Unauthorized,
            message: message.into(),
            details: vec![Detail::bare(reason, message)],
        }
    }

    #[must_use]
    pub fn forbidden() -> Self {
        let message = "not allowed";
        Self {
            code: Code::Forbidden,
            message: message.into(),
            details: vec![Detail::bare(Reason::NotAllowed, message)],
        }
    }

    #[must_use]
    pub const fn not_found() -> Self {
        Self { code: Code::NotFound, message: Cow::Borrowed("no such user"), details: Vec::new() }
    }

    #[must_use]
    pub fn conflict(field: &'static str, reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self {
            code: Code::Conflict,
            message: message.clone(),
            details: vec![Detail::new(field, reason, message)],
        }
    }

    #[must_use]
    pub fn email_taken() -> Self {
        Self::conflict("email", Reason::EmailTaken, "the e-mail address belongs to another user")
    }

    #[must_use]
    pub fn id_taken() -> Self {
        Self::conflict("id", Reason::IdTaken, "the id belongs to another user")
    }

    #[must_use]
    pub fn message_id_reused() -> Self {
        Self::conflict(
            "message_id",
            Reason::MessageIdReused,
            "this message_id was used for another message; a new message needs a new one",
        )
    }

    #[must_use]
    pub fn expired(reason: Reason) -> Self {
        let (field, message) = match reason {
            Reason::DeadlinePassed => ("deadline", "the deadline has passed; nothing was done"),
            _ => ("message_id", "the message is older than the dedupe window; nothing was done"),
        };
        Self {
            code: Code::Expired,
            message: message.into(),
            details: vec![Detail::new(field, reason, message)],
        }
    }

    /// Of a query, of which nothing is kept.
    #[must_use]
    pub const fn unanswered() -> Self {
        let message = Cow::Borrowed("the query could not be answered; it may be asked again");
        Self { code: Code::InternalError, message, details: Vec::new() }
    }

    /// Of a command.
    #[must_use]
    pub const fn internal() -> Self {
        Self {
            code: Code::InternalError,
            message: Cow::Borrowed("the request could not be carried out; it is kept for the operators"),
            details: Vec::new(),
        }
    }
}

impl From<UserError> for Refusal {
    fn from(error: UserError) -> Self {
        match error {
            UserError::VersionMismatch { actual, .. } => Self::conflict(
                "expected_version",
                Reason::VersionMismatch,
                format!("the user is at version {actual}"),
            ),
        }
    }
}

impl From<InvalidValue> for Reason {
    fn from(error: InvalidValue) -> Self {
        match error {
            InvalidValue::TooShort(_) => Self::TooShort,
            InvalidValue::TooLong(_) => Self::TooLong,
            InvalidValue::NotAnEmail => Self::InvalidEmail,
            InvalidValue::ControlCharacter | InvalidValue::NotOneOf(_) => Self::InvalidValue,
        }
    }
}

/// A failure of the store, by what must come of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}")]
pub struct Failure {
    pub kind: FailureKind,
    /// For the log and the dead letter; holds no payload and no credentials.
    pub what: String,
}

/// What to do about a failure. One exhaustive place decides: the batch runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Serialization, deadlock, lock or statement time-out: the same batch again.
    Transient,
    /// The store is away, full, read-only or shutting down: wait for it, burn nothing.
    Away,
    /// Another transaction got there first: run one by one, and look again.
    Conflict,
    /// Anything else: run one by one; what fails alone is kept.
    Permanent,
}

impl Failure {
    #[must_use]
    pub fn new(kind: FailureKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}
