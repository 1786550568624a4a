//! A command on its way through a lane, and what became of it.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::actor::Actor;
use super::error::{Code, Refusal};
use super::kept::{KeptReason, Waiter};
use super::message::{Fingerprint, MessageKey, Properties, Trace};
use super::registry::ErasedCommand;

/// A command, judged as far as it can be without the database.
#[derive(Debug)]
pub struct Task {
    /// `None` where the message id cannot be used: such a task is refused, and never in the inbox.
    pub key: Option<MessageKey>,
    /// As the message said it; empty where it said nothing.
    pub message_type: String,
    pub fingerprint: Fingerprint,
    pub actor: Actor,
    pub correlation_id: Option<String>,
    /// Only a name that the allow-list let through.
    pub reply_to: Option<String>,
    pub trace: Trace,
    pub deadline: Option<DateTime<Utc>>,
    pub work: Work,
    /// What it is about, as far as its body tells; see [`KeptCommand::aggregate`](super::kept::KeptCommand).
    pub aggregate: Option<String>,
    /// What the message was, to keep it if it fails.
    pub original: Original,
    /// Its row in `failed_commands` and how often it was run, where it was kept before.
    pub kept: Option<Kept>,
    /// The broker delivered this very message before. What its caller sent again is another delivery.
    pub redelivered: bool,
    /// A duplicate is likely: ask the inbox before running it.
    pub suspect: bool,
}

/// What to do with a task.
#[derive(Debug)]
pub enum Work {
    Run(Box<dyn ErasedCommand>),
    /// Refused already; counts only if the inbox has no answer.
    Refuse(Refusal, KeptReason),
    /// Not to be run: it becomes a dead letter with this reason and error, unless the inbox has an answer.
    Park(KeptReason, Cow<'static, str>),
}

/// A message as it came, without its token.
#[derive(Debug, Clone, Default)]
pub struct Original {
    pub properties: Properties,
    pub body: Arc<[u8]>,
}

/// Which kept command a task is.
#[derive(Debug, Clone)]
pub struct Kept {
    pub id: Uuid,
    pub attempts: u32,
    pub first_error: String,
    /// A dead letter for this reason, whose callers are still to be told: nothing else is to be done.
    pub dead: Option<KeptReason>,
    /// Who else waits for its answer.
    pub waiters: Vec<Waiter>,
}

/// What became of a task. The transaction that settled it has committed.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Answered: a success, or a refusal with its code.
    Answered { body: Arc<str>, code: Option<Code>, replayed: bool },
    /// Kept to be tried again; no answer yet.
    Kept { attempts: u32 },
    /// A dead letter, with the answer for whoever waits.
    Dead { body: Arc<str>, code: Code, reason: KeptReason },
    /// Kept already, by an earlier delivery of the same message, and waits to be tried again.
    Waits,
    /// A dead letter already, by an earlier delivery of the same message.
    AlreadyDead { body: Arc<str>, code: Code },
    /// What it prepared no longer holds; it is to be prepared and run again.
    Stale,
}

impl Task {
    /// Whether there is anything to prepare before the transaction.
    #[must_use]
    pub fn prepares(&self) -> bool {
        matches!(&self.work, Work::Run(command) if command.prepares())
    }

    /// The correlation id of its reply: as the message said it.
    #[must_use]
    pub fn answers_to(&self) -> Option<String> {
        self.correlation_id.clone().or_else(|| self.original.properties.message_id.clone())
    }

    /// The aggregate whose commands keep their order.
    #[must_use]
    pub fn order_key(&self) -> Option<String> {
        match &self.work {
            Work::Run(command) => Some(command.order_key()),
            Work::Refuse(..) | Work::Park(..) => None,
        }
    }
}
