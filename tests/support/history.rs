//! The history of a run: what callers sent and got, what a subscriber saw, what the database
//! holds afterwards. Plain data; the checker judges it, and can be fed made-up ones.

use serde_json::Value;
use uuid::Uuid;

/// Whether the worker is to keep an answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It reaches the state: its answer, success or refusal, is stored.
    Stored,
    /// It is refused before that, anew each time it is sent.
    Anew,
}

/// One attempt to send one command.
#[derive(Clone, Debug)]
pub struct Sent {
    pub message_id: String,
    pub kind: String,
    /// The body and who sent it: what must be the same for the message to be the same.
    pub content: String,
    pub correlation: String,
    /// The broker took responsibility for it.
    pub confirmed: bool,
    /// It named a valid `reply_to`, and that queue lived on.
    pub reply_expected: bool,
    pub judged: Judged,
}

/// One reply.
#[derive(Clone, Debug)]
pub struct Got {
    pub correlation: String,
    pub replayed: Option<bool>,
    pub body: Value,
}

/// One event as a subscriber saw it.
#[derive(Clone, Debug)]
pub struct Announced {
    pub subject: String,
    pub sequence: i64,
    pub id: String,
    pub kind: String,
    pub data: Value,
}

/// A row of `users`.
#[derive(Clone, Debug)]
pub struct User {
    pub id: Uuid,
    pub email: String,
    pub name: String,
    pub role: String,
    pub version: i64,
    pub deleted: bool,
}

/// A row of `inbox`.
#[derive(Clone, Debug)]
pub struct Answer {
    pub message_id: Uuid,
    pub kind: String,
    pub answer: Value,
}

/// A row of `events`.
#[derive(Clone, Debug)]
pub struct Logged {
    pub position: i64,
    pub batch_id: i64,
    pub subject: Uuid,
    pub sequence: i64,
    pub id: Uuid,
    pub kind: String,
    pub data: Value,
    /// The message id of the command it came from.
    pub cause: Option<Uuid>,
}

/// A row of `failed_commands`.
#[derive(Clone, Debug)]
pub struct Failed {
    pub message_id: Option<String>,
    pub kind: Option<String>,
    pub state: String,
    pub reason: Option<String>,
    pub attempts: i64,
}

/// A queue after healing.
#[derive(Clone, Debug)]
pub struct Queue {
    pub name: String,
    pub ready: u32,
    pub consumers: u32,
}

/// One look at what a worker uses.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub resident_kib: u64,
    pub connections: i64,
}

/// Everything about one run. What was not looked at stays empty or `None`, and the checker says
/// that it checked nothing there.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub seed: u64,
    pub sent: Vec<Sent>,
    pub got: Vec<Got>,
    pub announced: Vec<Announced>,
    pub users: Vec<User>,
    pub inbox: Vec<Answer>,
    pub events: Vec<Logged>,
    pub failed: Vec<Failed>,
    pub outbox: Option<i64>,
    pub queues: Vec<Queue>,
    pub samples: Vec<Sample>,
    /// The most that a sample may show.
    pub bounds: Option<Sample>,
    pub idle_in_transaction: Option<i64>,
    pub locks_after_shutdown: Option<i64>,
    pub secrets: Vec<String>,
    /// What the secrets must not stand in: a name and its content.
    pub places: Vec<(String, Vec<u8>)>,
}
