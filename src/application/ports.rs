//! What the application needs from outside, as traits. Adapters stand in `infrastructure`.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::{Id, PasswordHash, User};

use super::dto::{EventPage, EventView, PageMeta, UserView};
use super::error::Failure;
use super::kept::{KeptCommand, KeptReason, Waiter};
use super::message::{Fingerprint, MessageKey};
use super::password::Password;
use super::query::{EventFilter, UserFilter, UserKey};
use super::workspace::{Needs, Workspace};

/// A future behind a `dyn` port.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where transactions begin.
pub trait Store: Send + Sync + 'static {
    type Transaction: Transaction;

    /// # Errors
    /// A [`Failure`] of the store.
    fn begin(&self, locks: Locks) -> impl Future<Output = Result<Self::Transaction, Failure>> + Send;
}

/// How a transaction keeps others from what it has loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// Not at all: what somebody else changed meanwhile is a conflict at the commit. Half the round trips.
    Optimistic,
    /// They wait from when it is loaded until the commit.
    Held,
}

/// One batch's transaction: a few bulk methods, nothing else. Dropped without [`commit`](Self::commit),
/// nothing of it happened.
pub trait Transaction: Send {
    /// Loads the aggregates; locks them, if at all, in id order.
    fn load(&mut self, needs: &Needs) -> impl Future<Output = Result<Workspace, Failure>> + Send;

    /// What is known of messages handled before. Asked after [`load`](Self::load), so that it shows what a
    /// duplicate has just committed.
    fn seen(&mut self, keys: &[MessageKey]) -> impl Future<Output = Result<Vec<Seen>, Failure>> + Send;

    /// Writes everything in one go, and commits. A user that another transaction changed meanwhile, or a message
    /// or an e-mail that it took, is [`FailureKind::Conflict`](super::error::FailureKind::Conflict).
    fn commit(self, changes: Changes) -> impl Future<Output = Result<(), Failure>> + Send;

    fn rollback(self) -> impl Future<Output = ()> + Send;
}

/// A message that was handled, or is kept to be tried again.
#[derive(Debug, Clone)]
pub struct Seen {
    pub key: MessageKey,
    pub message_type: String,
    pub actor: String,
    pub fingerprint: Fingerprint,
    pub known: Known,
}

/// How a message ended, or where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Answered, with this reply body.
    Answer(Arc<str>),
    /// It failed, and waits in `failed_commands`, in this row, to be tried again.
    Waiting(uuid::Uuid),
    /// It failed for good, and is a dead letter.
    Dead(KeptReason),
}

/// What a batch writes.
#[derive(Debug, Default)]
pub struct Changes {
    pub created: Vec<User>,
    /// Each with the version it was loaded at.
    pub updated: Vec<(i64, User)>,
    pub events: Vec<NewEvent>,
    pub answers: Vec<NewAnswer>,
    /// Commands that failed now.
    pub kept: Vec<KeptCommand>,
    /// Kept commands that are done now, by the id of their row.
    pub released: Vec<uuid::Uuid>,
    /// Callers that wait for a kept command, by the id of its row. One that is being run just now is
    /// [`FailureKind::Transient`](super::error::FailureKind::Transient).
    pub joined: Vec<(uuid::Uuid, Waiter)>,
    /// [`Transaction::seen`] was not asked: an answer to a message that is kept is a conflict.
    pub unasked: bool,
}

impl Changes {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.created.is_empty()
            && self.updated.is_empty()
            && self.events.is_empty()
            && self.answers.is_empty()
            && self.kept.is_empty()
            && self.released.is_empty()
            && self.joined.is_empty()
    }
}

/// An event to be appended to the log and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub id: uuid::Uuid,
    pub subject: uuid::Uuid,
    pub sequence: i64,
    /// `user.created.v1`; owned where it was read back, for a newer worker may have written it.
    pub kind: Cow<'static, str>,
    /// A JSON object.
    pub data: String,
    pub occurred_at: DateTime<Utc>,
    pub causation_id: uuid::Uuid,
    pub correlation_id: Option<String>,
    pub actor: String,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

/// The answer to a message, for the inbox.
#[derive(Debug, Clone)]
pub struct NewAnswer {
    pub key: MessageKey,
    pub message_type: String,
    pub actor: String,
    pub fingerprint: Fingerprint,
    pub answer: Arc<str>,
}

/// Reads for queries and for what a command prepares outside its transaction.
pub trait ReadModel: Send + Sync {
    fn user(&self, key: UserKey) -> Pending<'_, Result<Option<UserView>, Failure>>;
    fn users<'a>(&'a self, filter: &'a UserFilter)
    -> Pending<'a, Result<(Vec<UserView>, PageMeta), Failure>>;
    fn events<'a>(
        &'a self,
        filter: &'a EventFilter,
    ) -> Pending<'a, Result<(Vec<EventView>, EventPage), Failure>>;
    /// The present hash of a user who is not deleted.
    fn password_hash(&self, id: Id<User>) -> Pending<'_, Result<Option<PasswordHash>, Failure>>;
}

/// Hashes and verifies on a bounded pool of threads of its own.
pub trait Passwords: Send + Sync {
    fn hash<'a>(&'a self, password: &'a Password) -> Pending<'a, Result<PasswordHash, Failure>>;
    fn verify<'a>(
        &'a self,
        password: &'a Password,
        hash: &'a PasswordHash,
    ) -> Pending<'a, Result<bool, Failure>>;
    /// Somebody waits for the answer to a query: for a moment, hashing is to leave a core to it.
    fn make_way(&self);
}

/// Keyed digests and sealed bodies, under keys derived from `ROSTER_SECRET`.
pub trait Vault: Send + Sync {
    /// HMAC-SHA-256 of a body's bytes: a bare hash of a body with a password in it could be guessed at offline.
    fn fingerprint(&self, body: &[u8]) -> Fingerprint;
    /// Encrypts and authenticates; `context` must be the same when opened.
    ///
    /// # Errors
    /// A [`Failure`] where the cipher refuses.
    fn seal(&self, body: &[u8], context: &[u8]) -> Result<Vec<u8>, Failure>;
    /// # Errors
    /// A [`Failure`] where the bytes were sealed under another secret or context.
    fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, Failure>;
}

/// The time, so that tests can set it.
pub trait Clock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
}

/// How long to wait before trying again, with jitter.
pub trait Patience: Send + Sync {
    /// Waits before try `attempt + 1`; longer each time.
    fn pause(&self, attempt: u32) -> impl Future<Output = ()> + Send;
    /// From 0 to 1, at random.
    fn jitter(&self) -> f64;
}

/// What commands may use while they prepare.
#[derive(Clone)]
pub struct Services {
    pub passwords: Arc<dyn Passwords>,
    pub read: Arc<dyn ReadModel>,
    pub vault: Arc<dyn Vault>,
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Services")
    }
}

/// The failed commands, outside the batch's transaction: what is due, and the operators' tools.
pub trait FailedCommands: Send + Sync {
    /// Takes what is due, for this process alone, for a minute unless it is [held](Self::hold) longer. The oldest come
    /// first; one is held back while an earlier one of its aggregate, tried no more often, waits or is being run. One
    /// whose try never ended is given alone: it may have killed the process.
    fn due(&self, limit: u32) -> impl Future<Output = Result<Vec<KeptCommand>, Failure>> + Send;
    /// Keeps, for another minute, those that were taken and are not settled.
    fn hold(&self, ids: &[uuid::Uuid]) -> impl Future<Output = Result<(), Failure>> + Send;
    /// How many wait to be tried again, and how many are dead letters.
    fn count(&self) -> impl Future<Output = Result<(i64, i64), Failure>> + Send;
    /// Notes of dead letters that those who waited were told.
    fn told(&self, ids: &[uuid::Uuid]) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Deletes those that are done.
    fn forget(&self, ids: &[uuid::Uuid]) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The committed batches whose events are not published yet (DESIGN.md §4).
pub trait Outbox: Send + Sync + 'static {
    type Leader: OutboxLeader;

    /// Becomes the one relay of this database, or `None` where another process is it.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    fn lead(&self) -> impl Future<Output = Result<Option<Self::Leader>, Failure>> + Send;

    /// Waits until a batch with events has been committed since the last call, here or, for a leader, anywhere.
    /// May return for nothing, and may miss another process's: poll as well.
    fn committed(&self) -> impl Future<Output = ()> + Send;

    fn backlog(&self) -> impl Future<Output = Result<Backlog, Failure>> + Send;
}

/// The right to publish, as long as its session lives: after an error, publish nothing and drop it.
/// It loses its session after 10 s without a call.
pub trait OutboxLeader: Send {
    /// Of the `limit` batches with the lowest ids above `after`, those that are `wanted`, which is asked in the order of
    /// the ids with each id and its number of events. A lower id may still turn up later, if it is above what
    /// [`heartbeat`](Self::heartbeat) gave (never one that shares an aggregate with a higher one seen before).
    fn pending(
        &mut self,
        after: i64,
        limit: u32,
        wanted: impl FnMut(i64, usize) -> bool + Send,
    ) -> impl Future<Output = Result<Vec<CommittedBatch>, Failure>> + Send;

    /// All events of these batches are published.
    fn done(&mut self, batches: &[i64]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Keeps the session alive, and tells whether it is: to be called every second. Gives the id up to which every batch
    /// that there will ever be shows from the next [`pending`](Self::pending) on.
    fn heartbeat(&mut self) -> impl Future<Output = Result<i64, Failure>> + Send;
}

/// A batch to be published, its events in the order in which they were recorded.
#[derive(Debug, Clone)]
pub struct CommittedBatch {
    pub id: i64,
    pub events: Arc<[NewEvent]>,
}

/// How far publishing lags behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    pub batches: i64,
    pub events: i64,
    /// Of the oldest batch; zero where there is none.
    pub oldest: Duration,
    /// The oldest transaction's age: while it lasts, dead outbox rows cannot be vacuumed.
    pub oldest_transaction: Duration,
}
