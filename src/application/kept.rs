//! Commands that failed: what is kept of them, and when they are tried again (CONTRACT.md §9).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::{Reason, Refusal};
use super::message::{Fingerprint, MessageKey, Properties, Trace};

/// Why a command is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptReason {
    /// Not one JSON object, or properties that cannot be read.
    Malformed,
    UnknownType,
    /// Invalid fields or a state that says no, and nobody to tell.
    Refused,
    Failed,
    Panicked,
    /// The broker delivered it too often: it may kill the process.
    DeliveryLimit,
    /// Its time ran out before anybody took it.
    Expired,
    MessageIdReused,
}

impl KeptReason {
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::UnknownType,
        Self::Refused,
        Self::Failed,
        Self::Panicked,
        Self::DeliveryLimit,
        Self::Expired,
        Self::MessageIdReused,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::DeliveryLimit => "delivery_limit",
            Self::Expired => "expired",
            Self::MessageIdReused => "message_id_reused",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// Whether the message was only refused: sent again, it is judged anew, and its id may be used for what mends
    /// it. Otherwise it may yet be carried out.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::Malformed | Self::UnknownType | Self::Refused | Self::Expired | Self::MessageIdReused => {
                true
            }
            Self::Failed | Self::Panicked | Self::DeliveryLimit => false,
        }
    }

    /// What a caller is told of a dead letter that was never run.
    #[must_use]
    pub fn last_word(self) -> Refusal {
        match self {
            Self::Expired => Refusal::expired(Reason::DeadlinePassed),
            _ => Refusal::internal(),
        }
    }
}

/// A command in `failed_commands`: waiting to be tried again, or a dead letter.
#[derive(Debug, Clone)]
pub struct KeptCommand {
    /// The row's own id; messages without a usable id have one too.
    pub id: Uuid,
    /// One row per message: keeping a dead letter's message renews its row. `None` where the id cannot be used, or
    /// is another message's.
    pub key: Option<MessageKey>,
    /// What its body names, in clear: the id of a user or a session, or the address of a user to be. Those of one
    /// aggregate are run again in the order in which they were kept.
    pub aggregate: Option<String>,
    /// Its row is there already, and is to say how this try went. Where an operator dropped it, nothing is kept.
    pub again: bool,
    /// As [`Actor`](super::actor::Actor) displays itself.
    pub actor: String,
    /// The role of an actor that is a user, the grant of one that is a service.
    pub grant: Option<String>,
    pub properties: Properties,
    /// Sealed by the [`Vault`](super::ports::Vault), with the row's id as context. Empty where the row has it.
    pub sealed_body: Vec<u8>,
    /// Of the body.
    pub fingerprint: Fingerprint,
    pub reason: KeptReason,
    /// How often it was run so far.
    pub attempts: u32,
    /// How many tries began since then and never ended; zero in what is to be kept.
    pub unended: u32,
    pub first_error: String,
    pub last_error: String,
    pub verdict: Verdict,
    /// Who else waits for its answer; empty in what is to be kept.
    pub waiters: Vec<Waiter>,
}

/// A caller that sent the same message again while it waited to be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    pub reply_to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

impl Waiter {
    #[must_use]
    pub fn trace(&self) -> Trace {
        Trace { parent: self.traceparent.clone(), state: self.tracestate.clone() }
    }
}

/// What becomes of a kept command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Tried again after this, by the store's clock: those of the workers may differ.
    Retry {
        after: Duration,
    },
    Dead,
    /// Dead, and who waits is still to be told: again after this, should this process die first.
    Untold {
        after: Duration,
    },
}

/// The waits between the tries of a failing command.
#[derive(Debug, Clone)]
pub struct Ladder(Vec<Duration>);

impl Ladder {
    #[must_use]
    pub const fn new(waits: Vec<Duration>) -> Self {
        Self(waits)
    }

    /// When a command that has now failed `attempts` times is tried again: after its wait, give or take a
    /// tenth (`jitter` is from 0 to 1).
    #[must_use]
    pub fn verdict(&self, attempts: u32, jitter: f64) -> Verdict {
        let step = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        match self.0.get(step) {
            Some(wait) => Verdict::Retry { after: wait.mul_f64(0.9 + 0.2 * jitter) },
            None => Verdict::Dead,
        }
    }
}

/// 1 s, 10 s, 1 min, 10 min.
impl Default for Ladder {
    fn default() -> Self {
        Self([1, 10, 60, 600].map(Duration::from_secs).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_failure_is_the_last() {
        let waits: Vec<_> = (1..=5)
            .map(|attempts| match Ladder::default().verdict(attempts, 0.5) {
                Verdict::Retry { after } => Some(after.as_secs()),
                Verdict::Dead | Verdict::Untold { .. } => None,
            })
            .collect();
        assert_eq!(waits, [Some(1), Some(10), Some(60), Some(600), None]);
    }

    #[test]
    fn every_reason_has_one_name() {
        for reason in KeptReason::ALL {
            assert_eq!(KeptReason::parse(reason.as_str()), Some(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
