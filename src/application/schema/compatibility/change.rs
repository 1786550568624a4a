//! The ways in which a schema can break what was promised.

use std::fmt;

/// A broken promise and its place: `commands/user.create.v1.json#/email`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    pub at: String,
    pub change: Change,
}

/// What was changed incompatibly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The whole message is gone.
    Gone,
    FieldRemoved,
    TypeChanged {
        from: String,
        to: String,
    },
    ValueRemoved(String),
    /// A list of values where any was taken before.
    ValuesRestricted,
    /// Any value where a list was promised before.
    ValuesOpened,
    /// A request's field that could be left out.
    NewlyRequired,
    /// An answer's field that was always there.
    NoLongerAlwaysThere,
    /// Unknown fields were taken before.
    Closed,
    /// A request's limit.
    Tightened {
        limit: &'static str,
        from: String,
        to: String,
    },
    /// An answer's limit.
    Loosened {
        limit: &'static str,
        from: String,
        to: String,
    },
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.change)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the message is gone"),
            Self::FieldRemoved => f.write_str("the field is gone"),
            Self::TypeChanged { from, to } => write!(f, "the type was {from}, and is {to}"),
            Self::ValueRemoved(value) => write!(f, "the value {value} is gone"),
            Self::ValuesRestricted => f.write_str("any value was taken, and now only listed ones"),
            Self::ValuesOpened => f.write_str("only listed values were promised, and now any"),
            Self::NewlyRequired => f.write_str("the field could be left out, and is required now"),
            Self::NoLongerAlwaysThere => f.write_str("the field was always there, and may be absent now"),
            Self::Closed => f.write_str("other fields were taken, and are refused now"),
            Self::Tightened { limit, from, to } => write!(f, "{limit} was {from}, and is {to}: tighter"),
            Self::Loosened { limit, from, to } => write!(f, "{limit} was {from}, and is {to}: looser"),
        }
    }
}
