//! One stay at the broker: what is consumed, acknowledged and replied on the same connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use metrics::gauge;
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::dial::Dial;
use super::replies::Replies;

/// For the broker to answer a call. lapin never resolves one to a broker that dies before it answers; and RabbitMQ 3.10,
/// killed and started again, has kept whoever consumed from a quorum queue without a leader waiting for a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Why a session ended. The supervisor starts the next.
#[derive(Debug, Error)]
pub enum SessionError {
    #[error("{0}")]
    Lapin(#[from] lapin::Error),
    #[error("the broker cancelled the consumer of {0}")]
    Cancelled(String),
    #[error("no connection for replies: {0}")]
    NoReplies(String),
    #[error("RabbitMQ did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
}

/// Consumes and acknowledges on one connection and replies on another: a blocked connection stops acks too.
#[derive(Debug)]
pub struct Session {
    /// Kept, because the connection closes when it is dropped.
    consuming: Connection,
    pub(super) replies: Replies,
    over: CancellationToken,
    in_flight: InFlight,
}

impl Session {
    /// # Errors
    /// [`SessionError`]
    pub async fn open(consuming: Connection, replying: Dial) -> Result<Arc<Self>, SessionError> {
        let over = CancellationToken::new();
        let replies = Replies::open(replying, over.clone()).await.map_err(SessionError::NoReplies)?;
        Ok(Arc::new(Self { consuming, replies, over, in_flight: InFlight::default() }))
    }

    /// A channel to consume on.
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn channel(&self) -> Result<Channel, SessionError> {
        answered(self.consuming.create_channel()).await
    }

    /// Marks the end: what it delivered and nobody began is left to the broker to deliver again.
    pub fn end(&self) {
        self.over.cancel();
        gauge!(crate::metrics::BROKER_BLOCKED).set(0.0);
        gauge!(crate::metrics::IN_HAND).set(0.0);
    }

    /// Closes the consuming connection; that of the replies goes with the session.
    pub async fn close(&self) {
        self.end();
        // Errors are those of a connection that is gone already.
        drop(self.consuming.close(200, "done".into()).await);
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Resolves at the end.
    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// Tells the metrics how it stands.
    pub fn measure(&self) {
        gauge!(crate::metrics::BROKER_BLOCKED).set(f64::from(u8::from(self.replies.blocked())));
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        gauge!(crate::metrics::IN_HAND).set(self.in_flight.count() as f64);
    }

    /// Whether it can go on: it consumes, and has where replies leave.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.consuming.status().connected() && self.replies.connected()
    }

    /// Waits until nothing delivered is unsettled.
    pub async fn settled(&self) {
        self.in_flight.at_most(0).await;
    }
}

/// Bounds a call to the broker in time.
///
/// # Errors
/// [`SessionError::Silent`] or what lapin says.
pub(super) async fn answered<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, SessionError> {
    match tokio::time::timeout(ANSWER_WITHIN, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SessionError::Silent),
    }
}

/// Consumes a queue, so many unacknowledged at a time.
///
/// # Errors
/// [`SessionError`]
pub(super) async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Result<Consumer, SessionError> {
    answered(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let consume =
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    answered(consume).await
}

/// Counts what was delivered and is not settled.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    count: AtomicUsize,
    changed: Notify,
}

impl InFlight {
    /// Waits until there are no more than `most`.
    pub async fn at_most(&self, most: usize) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.count() <= most {
                return;
            }
            changed.await;
        }
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    fn remove(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}

/// A delivery to be settled. Dropped unsettled, it is left to the broker to deliver again.
#[derive(Debug)]
pub(super) struct Ticket {
    pub session: Arc<Session>,
    pub acks: Acks,
    pub tag: u64,
}

impl Ticket {
    pub fn new(session: &Arc<Session>, acks: &Acks, tag: u64) -> Self {
        session.in_flight.add();
        acks.in_flight.add();
        Self { session: Arc::clone(session), acks: acks.clone(), tag }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.acks.in_flight.remove();
        self.session.in_flight.remove();
    }
}
