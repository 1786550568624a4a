//! Collects what the broker parked in the dead letter queue: into the dead letters, with an answer to the caller.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use metrics::gauge;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::lanes::Lanes;
use super::session::{Session, SessionError, Ticket, answered, consume};
use super::wire;
use crate::application::judge::Judge;

const PREFETCH: u16 = 16;
/// How often the queue is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// After so many looks at a queue that is not emptied somebody is told.
const ALARM_AFTER: u32 = 5;

/// Consumes `queue` until `stop` is cancelled or the session breaks. Nothing of it is run.
///
/// # Errors
/// [`SessionError`]: the session is over.
pub async fn collect_parked(
    session: &Arc<Session>,
    queue: &str,
    judge: &Judge,
    lanes: &Lanes,
    stop: &CancellationToken,
) -> Result<(), SessionError> {
    let channel = session.channel().await?;
    let acks = Acks::new(channel.clone());
    let mut consumer = consume(&channel, queue, PREFETCH).await?;
    let mut backlog = Backlog { channel: session.channel().await?, queue, looks: 0 };
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut delivery = tokio::select! {
            _ = ticks.tick() => {
                backlog.look().await?;
                continue;
            }
            delivery = consumer.next() => match delivery {
                Some(delivery) => delivery?,
                None => return Err(SessionError::Cancelled(queue.to_owned())),
            },
            () = stop.cancelled() => return Ok(()),
        };
        let ticket = Ticket::new(session, &acks, delivery.delivery_tag);
        let reason = wire::parked_for(&delivery);
        lanes.submit(judge.parked(wire::raw(&mut delivery), reason), ticket);
    }
}

/// What waits in the queue and is not taken: the worker cannot keep it, or nobody takes it at all. The broker holds on
/// to what a full queue refuses, so nothing is lost, but somebody should look.
struct Backlog<'a> {
    channel: Channel,
    queue: &'a str,
    /// Looks in a row that found something.
    looks: u32,
}

impl Backlog<'_> {
    async fn look(&mut self) -> Result<(), SessionError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue =
            answered(self.channel.queue_declare(self.queue.into(), options, FieldTable::default())).await?;
        let waiting = queue.message_count();
        gauge!(crate::metrics::PARKED_MESSAGES).set(waiting);
        if waiting > 0 {
            self.looks = self.looks.saturating_add(1);
            if self.looks == ALARM_AFTER {
                tracing::warn!(waiting, queue = self.queue, "the dead letter queue is not emptied");
            }
        } else {
            if self.looks >= ALARM_AFTER {
                tracing::info!(queue = self.queue, "the dead letter queue is empty again");
            }
            self.looks = 0;
        }
        Ok(())
    }
}
