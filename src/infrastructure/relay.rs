//! The relay: publishes what was committed, in order for each aggregate, confirmed, and then lets it go.
//!
//! Two events of one aggregate are never in flight together, so that a refusal cannot reorder them. One that a
//! subscriber's full queue refuses holds back its own aggregate alone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use metrics::counter;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rabbitmq::{BrokerError, EventPublisher, Sent};
use crate::application::error::Failure;
use crate::application::ports::{NewEvent, Outbox, OutboxLeader, Pending};
use crate::failpoint;

/// Events that are read and not yet confirmed: no batch is read while there are so many.
const WINDOW: usize = 2048;
/// Batches read at a time.
const READ: usize = 64;
/// Batches whose rows are deleted in one go, while more are on their way.
const DELETE: usize = 16;
/// From a commit to reading it: those that follow close on it share a read, and its reply leaves first.
const GATHER: Duration = Duration::from_millis(2);
/// From a batch's last confirm to the deletion of its row, for others to share it.
const LINGER: Duration = Duration::from_millis(50);
/// The leader's session is lost after 10 s without a call; also the slow poll, and how soon a read may begin behind what
/// was published.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Before a refused event is sent again, doubling from the first to the second.
const REFUSED_AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
/// For what is in flight when it is time to stop.
const LAST_CONFIRMS: Duration = Duration::from_secs(5);

/// Why a relay's term ended.
#[derive(Debug, Error)]
pub enum TermEnd {
    #[error("{0}")]
    Store(#[from] Failure),
    #[error("{0}")]
    Broker(#[from] BrokerError),
    #[error("an event was published and not confirmed in time")]
    Unconfirmed,
}

/// Publishes until `stop` is cancelled, as the leader of the outbox.
///
/// # Errors
/// [`TermEnd`]: the leader's session or the publisher's channel is not to be used any more. What was not
/// confirmed is still in the outbox.
pub async fn serve_term<O: Outbox>(
    outbox: &O,
    leader: &mut O::Leader,
    publisher: &EventPublisher,
    stop: &CancellationToken,
) -> Result<(), TermEnd> {
    let mut term = Term {
        publisher,
        subjects: HashMap::new(),
        batches: HashMap::new(),
        left: 0,
        complete: 0,
        passed: 0,
        progress: FuturesUnordered::new(),
        more: false,
        done: Vec::new(),
        refused: false,
    };
    let (mut reading, mut deleting) = (Alarm::default(), Alarm::default());
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let (mut read, mut delete) = (false, false);
        tokio::select! {
            Some(progress) = term.progress.next() => term.advance(progress)?,
            () = outbox.committed(), if term.has_room() && !reading.is_set() => reading.set(GATHER),
            () = reading.rings() => read = true,
            () = deleting.rings() => delete = true,
            _ = heartbeat.tick() => {
                // Even where there is no room to read, the session must be seen to live before the next publish.
                term.beat(leader).await?;
                read = term.has_room();
            }
            () = stop.cancelled() => return term.wind_up(leader).await,
        }
        while let Some(Some(progress)) = term.progress.next().now_or_never() {
            term.advance(progress)?;
        }
        if std::mem::take(&mut term.refused) {
            // It may be the channel that refuses, and not a subscriber's queue.
            publisher.renew().await?;
            // That may have taken longer than the session lives.
            term.beat(leader).await?;
        }
        if delete || term.done.len() >= DELETE {
            deleting = Alarm::default();
            term.delete(leader).await?;
            // There may be more than was read last.
            read |= term.has_room();
        }
        read |= term.more && term.left < WINDOW / 2;
        if read {
            reading = Alarm::default();
            term.read(leader).await?;
        }
        if !term.done.is_empty() && !deleting.is_set() {
            deleting.set(LINGER);
        }
    }
}

/// Rings once, some time after it was set.
#[derive(Debug, Default)]
struct Alarm(Option<Instant>);

impl Alarm {
    fn set(&mut self, after: Duration) {
        self.0 = Some(Instant::now() + after);
    }

    const fn is_set(&self) -> bool {
        self.0.is_some()
    }

    async fn rings(&mut self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.0 = None;
    }
}

/// An event on its way. It keeps its whole batch alive.
#[derive(Debug)]
struct Outgoing {
    batch: i64,
    events: Arc<[NewEvent]>,
    index: usize,
    refusals: u32,
}

impl Outgoing {
    fn event(&self) -> Option<&NewEvent> {
        self.events.get(self.index)
    }
}

enum Progress {
    Sent(Outgoing, Sent),
    /// Refused before, and due again.
    Due(Outgoing),
}

struct Term<'a> {
    publisher: &'a EventPublisher,
    /// Aggregates with an event in flight, and their later events.
    subjects: HashMap<Uuid, VecDeque<Outgoing>>,
    /// How many events of each batch are not confirmed yet.
    batches: HashMap<i64, usize>,
    left: usize,
    /// No batch up to this id can turn up after the next read.
    complete: i64,
    /// Up to this id all batches that there will ever be were taken up: reads begin behind it.
    passed: i64,
    /// There was no room for all that was to be read.
    more: bool,
    progress: FuturesUnordered<Pending<'static, Progress>>,
    done: Vec<i64>,
    /// An event was refused since this was last looked at.
    refused: bool,
}

impl Term<'_> {
    fn has_room(&self) -> bool {
        self.left < WINDOW
    }

    async fn beat<L: OutboxLeader>(&mut self, leader: &mut L) -> Result<(), TermEnd> {
        self.complete = leader.heartbeat().await?;
        self.passed = self.passed.min(self.complete);
        Ok(())
    }

    /// Takes up batches that were not seen before. A read may begin behind an id only once nobody can come with it or a
    /// lower one any more, however long ago it was given out: a batch can hold its id for as long as its commit
    /// takes, and the next one of its aggregate, which may be read then, must not be seen without it.
    async fn read<L: OutboxLeader>(&mut self, leader: &mut L) -> Result<(), TermEnd> {
        let limit = self.batches.len() + READ;
        let (batches, mut left, mut more) = (&self.batches, self.left, false);
        let (mut rows, mut last) = (0, self.passed);
        let wanted = |id, events| {
            rows += 1;
            let known = batches.contains_key(&id);
            let room = left < WINDOW;
            more |= !(known || room);
            if !more {
                last = id;
            }
            let taken = room && !known;
            left += if taken { events } else { 0 };
            taken
        };
        let pending = leader.pending(self.passed, u32::try_from(limit).unwrap_or(u32::MAX), wanted).await?;
        let whole = !more && rows < limit;
        self.passed = self.passed.max(if whole { self.complete } else { self.complete.min(last) });
        self.more = more;
        for batch in pending {
            self.batches.insert(batch.id, batch.events.len());
            self.left += batch.events.len();
            let mut order: Vec<usize> = (0..batch.events.len()).collect();
            if failpoint::bug("relay_out_of_order") {
                order.reverse();
            }
            for index in order {
                let events = Arc::clone(&batch.events);
                self.enqueue(Outgoing { batch: batch.id, events, index, refusals: 0 });
            }
            if batch.events.is_empty() {
                self.finish(batch.id);
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, outgoing: Outgoing) {
        let Some(subject) = outgoing.event().map(|event| event.subject) else { return };
        match self.subjects.entry(subject) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(outgoing);
            }
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::new());
                self.publish(outgoing);
            }
        }
    }

    fn publish(&mut self, outgoing: Outgoing) {
        let Some(event) = outgoing.event() else { return };
        let sent = self.publisher.publish(event);
        failpoint::hit("relay_after_publish");
        self.progress.push(Box::pin(async move { Progress::Sent(outgoing, sent.await) }));
    }

    fn advance(&mut self, progress: Progress) -> Result<(), TermEnd> {
        match progress {
            Progress::Due(outgoing) => self.publish(outgoing),
            Progress::Sent(_, Sent::Unknown) => return Err(TermEnd::Unconfirmed),
            Progress::Sent(outgoing, Sent::Refused) => {
                self.refused(outgoing);
            }
            Progress::Sent(outgoing, Sent::Confirmed) => {
                failpoint::hit("relay_after_confirm");
                counter!(crate::metrics::EVENTS_PUBLISHED).increment(1);
                self.confirmed(outgoing);
            }
        }
        Ok(())
    }

    fn refused(&mut self, mut outgoing: Outgoing) {
        let [first, last] = REFUSED_AGAIN;
        let wait = first.saturating_mul(1 << outgoing.refusals.min(10)).min(last);
        outgoing.refusals += 1;
        self.refused = true;
        if let Some(event) = outgoing.event() {
            counter!(crate::metrics::EVENTS_NACKED).increment(1);
            tracing::warn!(
                routing_key = %event.kind,
                refusals = outgoing.refusals,
                "the broker refused an event: some subscriber's queue is full or away; it will be sent again"
            );
        }
        self.progress.push(Box::pin(async move {
            tokio::time::sleep(wait).await;
            Progress::Due(outgoing)
        }));
    }

    fn confirmed(&mut self, outgoing: Outgoing) {
        let subject = outgoing.event().map(|event| event.subject);
        self.left = self.left.saturating_sub(1);
        if let Some(left) = self.batches.get_mut(&outgoing.batch) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.finish(outgoing.batch);
            }
        }
        let Some(subject) = subject else { return };
        match self.subjects.get_mut(&subject).and_then(VecDeque::pop_front) {
            Some(next) => self.publish(next),
            None => {
                self.subjects.remove(&subject);
            }
        }
    }

    /// The batch stays known until its row is gone, so that it is not read again.
    fn finish(&mut self, batch: i64) {
        self.done.push(batch);
    }

    async fn delete<L: OutboxLeader>(&mut self, leader: &mut L) -> Result<(), TermEnd> {
        leader.done(&self.done).await?;
        failpoint::hit("relay_after_delete");
        for batch in self.done.drain(..) {
            self.batches.remove(&batch);
        }
        Ok(())
    }

    /// Waits for the confirms that are on their way, and lets go of what is done.
    async fn wind_up<L: OutboxLeader>(mut self, leader: &mut L) -> Result<(), TermEnd> {
        let last = tokio::time::sleep(LAST_CONFIRMS);
        tokio::pin!(last);
        while self.left > 0 {
            tokio::select! {
                Some(progress) = self.progress.next() => self.advance(progress)?,
                () = &mut last => break,
            }
        }
        if self.done.is_empty() { Ok(()) } else { self.delete(leader).await }
    }
}
