//! Where the answers to queries leave.
//!
//! A direct reply-to is what its sender says, and RabbitMQ 3.10 closes the connection (541) over one that it cannot
//! read, or whose caller's node has left the cluster. So the first answer to each goes by another connection, confirmed,
//! where it harms nobody; whoever has got one is known, and the rest go unconfirmed.

use std::collections::HashSet;

use lapin::{Channel, Connection};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dial::Dial;
use super::replies::{Outgoing, Replies, publish_on};
use super::session::{SessionError, answered};
use crate::application::judge::ReplyPatterns;

/// How many callers are known at a time; then all are strangers again.
const KNOWN: usize = 10_000;

/// One that closes its channel, or its connection, does not take the consumer along.
pub(super) struct Answers {
    /// Kept, because it closes when it is dropped.
    _connection: Connection,
    channel: Channel,
    to_strangers: Replies,
    known: Mutex<HashSet<String>>,
    _over: DropGuard,
}

impl Answers {
    pub async fn open(answering: &Dial) -> Result<Self, SessionError> {
        let connection = answering.connect().await.map_err(SessionError::NoReplies)?;
        let channel = answered(connection.create_channel()).await?;
        let over = CancellationToken::new();
        let to_strangers = Replies::open(answering.clone(), over.clone()).await;
        let to_strangers = to_strangers.map_err(SessionError::NoReplies)?;
        let known = Mutex::default();
        Ok(Self { _connection: connection, channel, to_strangers, known, _over: over.drop_guard() })
    }

    /// Whether more can be sent.
    pub fn stand(&self) -> bool {
        self.channel.status().connected() && self.to_strangers.connected()
    }

    /// Once the broker has taken it, or will not.
    ///
    /// # Errors
    /// What lapin says. A stranger's is told where it happens.
    pub async fn send(&self, answer: Outgoing) -> Result<(), lapin::Error> {
        if ReplyPatterns::is_direct(&answer.reply_to) && !self.known.lock().contains(&answer.reply_to) {
            let caller = answer.reply_to.clone();
            if self.to_strangers.send(vec![answer]).await && !self.to_strangers.shuns(&caller) {
                let mut known = self.known.lock();
                if known.len() >= KNOWN {
                    known.clear();
                }
                known.insert(caller);
            }
            return Ok(());
        }
        publish_on(&self.channel, &answer).await.map(|_| ())
    }
}
