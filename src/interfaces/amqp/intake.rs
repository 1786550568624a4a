//! Consumes commands: judges each and hands it to the lanes; slows down where a message may kill the process.

use std::sync::Arc;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::BasicCancelOptions;
use lapin::{Channel, Consumer};
use metrics::{counter, gauge};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::lanes::Lanes;
use super::session::{InFlight, Session, SessionError, Ticket, answered, consume};
use super::wire;
use crate::application::judge::Judge;
use crate::application::kept::KeptReason;
use crate::failpoint;

/// From this count on a delivery is run alone, with prefetch 1: it may have killed the process before.
const SUSPICIOUS: u64 = 2;
/// At this count it is parked unrun. The broker's own limit of 20 is the backstop.
const PARK_AT: u64 = 10;

/// Whether commands are taken, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    Open,
    Paused(&'static str),
}

/// What consuming depends on.
#[derive(Debug, Clone)]
pub struct Intake {
    pub queue: String,
    pub prefetch: u16,
    pub judge: Arc<Judge>,
    pub lanes: Lanes,
    pub flow: watch::Receiver<Flow>,
    pub stop: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Prefetch 1: nothing else is in flight that could be counted as delivered.
    Careful,
    Full,
}

/// Why reading stopped, while the channel still stands.
enum Next {
    Wait,
    Careful(Vec<Delivery>),
    Full,
    Stop,
}

/// Commands are taken, until it is dropped.
struct Consuming;

impl Consuming {
    fn begin() -> Self {
        gauge!(crate::metrics::CONSUMING).set(1.0);
        Self
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        gauge!(crate::metrics::CONSUMING).set(0.0);
    }
}

impl Intake {
    /// Consumes until `stop` is cancelled or the session breaks. Calls `ready` whenever it consumes, or would but for
    /// what `flow` says or what is in hand.
    ///
    /// # Errors
    /// [`SessionError`]: the session is over.
    pub async fn run(mut self, session: &Arc<Session>, ready: impl Fn()) -> Result<(), SessionError> {
        let channel = session.channel().await?;
        let acks = Acks::new(channel.clone());
        let mut pace = Pace::Careful;
        while self.wait_until_open(session, &acks.in_flight, pace, &ready).await? {
            // Cancelled, not closed, while paused: closing would count every message in flight as delivered.
            let mut consumer = self.consume(&channel, pace).await?;
            ready();
            let consuming = Consuming::begin();
            let next = self.read(session, &acks, &mut consumer, pace).await?;
            drop(consuming);
            let mut suspects = self.drain(session, &acks, &channel, consumer).await?;
            pace = match next {
                Next::Wait => pace,
                Next::Full => Pace::Full,
                Next::Stop => break,
                Next::Careful(first) => {
                    suspects.splice(0..0, first);
                    Pace::Careful
                }
            };
            for suspect in suspects {
                pace = Pace::Careful;
                acks.in_flight.at_most(0).await;
                self.submit(session, &acks, suspect);
            }
            if pace == Pace::Careful {
                acks.in_flight.at_most(0).await;
            }
        }
        Ok(())
    }

    /// `false` when it is time to stop.
    async fn wait_until_open(
        &mut self,
        session: &Session,
        in_flight: &InFlight,
        pace: Pace,
        ready: impl Fn(),
    ) -> Result<bool, SessionError> {
        // The broker gives each consumer a prefetch of its own, whatever an earlier one of the channel has brought.
        let most = if pace == Pace::Full { usize::from(self.prefetch) / 2 } else { usize::MAX };
        loop {
            if self.stop.is_cancelled() {
                return Ok(false);
            }
            let open = *self.flow.borrow_and_update() == Flow::Open;
            if open && in_flight.count() <= most {
                return Ok(true);
            }
            if !session.connected() {
                return Err(SessionError::Cancelled(self.queue.clone()));
            }
            ready();
            tokio::select! {
                _ = self.flow.changed() => {}
                () = in_flight.at_most(most), if open => {}
                () = self.stop.cancelled() => return Ok(false),
                // A connection that breaks meanwhile has nobody else to notice.
                () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
            }
        }
    }

    async fn consume(&self, channel: &Channel, pace: Pace) -> Result<Consumer, SessionError> {
        let prefetch = if pace == Pace::Careful { 1 } else { self.prefetch };
        consume(channel, &self.queue, prefetch).await
    }

    async fn read(
        &mut self,
        session: &Arc<Session>,
        acks: &Acks,
        consumer: &mut Consumer,
        pace: Pace,
    ) -> Result<Next, SessionError> {
        loop {
            let delivery = tokio::select! {
                delivery = consumer.next() => match delivery {
                    Some(delivery) => delivery?,
                    None => return Err(SessionError::Cancelled(self.queue.clone())),
                },
                changed = self.flow.changed() => match changed {
                    Ok(()) if *self.flow.borrow() == Flow::Open => continue,
                    _ => return Ok(Next::Wait),
                },
                () = self.stop.cancelled() => return Ok(Next::Stop),
            };
            match (pace, wire::delivery_count(&delivery) >= SUSPICIOUS) {
                (Pace::Full, true) => return Ok(Next::Careful(vec![delivery])),
                (Pace::Full, false) => self.submit(session, acks, delivery),
                (Pace::Careful, suspicious) => {
                    self.submit(session, acks, delivery);
                    if !suspicious {
                        return Ok(Next::Full);
                    }
                    acks.in_flight.at_most(0).await;
                }
            }
        }
    }

    /// Cancels the consumer and takes what it had been sent already; gives back what is to run alone.
    async fn drain(
        &self,
        session: &Arc<Session>,
        acks: &Acks,
        channel: &Channel,
        mut consumer: Consumer,
    ) -> Result<Vec<Delivery>, SessionError> {
        answered(channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await?;
        let mut suspects = Vec::new();
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery?;
            if self.stop.is_cancelled() {
                // Left to the broker: it is delivered again to whoever comes.
                continue;
            }
            if wire::delivery_count(&delivery) >= SUSPICIOUS {
                suspects.push(delivery);
            } else {
                self.submit(session, acks, delivery);
            }
        }
        Ok(suspects)
    }

    fn submit(&self, session: &Arc<Session>, acks: &Acks, mut delivery: Delivery) {
        failpoint::hit("after_delivery");
        let count = wire::delivery_count(&delivery);
        let ticket = Ticket::new(session, acks, delivery.delivery_tag);
        if failpoint::bug("ack_before_commit") {
            let (acks, tag) = (acks.clone(), ticket.tag);
            tokio::spawn(async move { acks.settle(vec![tag]).await });
        }
        let raw = wire::raw(&mut delivery);
        let wanted_reply = raw.properties.reply_to.is_some();
        let mut task = if count >= PARK_AT {
            self.judge.parked(raw, KeptReason::DeliveryLimit)
        } else {
            self.judge.command(raw)
        };
        if wanted_reply && task.reply_to.is_none() {
            counter!(crate::metrics::REPLY_TO_REFUSED).increment(1);
        }
        task.redelivered = delivery.redelivered || count > 0;
        task.suspect |= task.redelivered;
        self.lanes.submit(task, ticket);
    }
}
