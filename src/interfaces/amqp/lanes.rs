//! Lanes: each runs what waits as one batch, as soon as its last batch is done.
//!
//! Commands with one order key share a lane and keep their order. A command that is still being prepared holds
//! back later ones with its key, and nobody else's.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::histogram;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::session::{Session, Ticket};
use super::settle::{Forget, Settled, Settler};
use crate::application::batch::{Runner, prepare};
use crate::application::error::{Failure, FailureKind};
use crate::application::ports::{Patience, Services, Store};
use crate::application::task::{Outcome, Task};
use crate::failpoint;

/// How often a command is prepared anew because the state moved on, before it counts as failed.
const MAX_STALE: u32 = 5;
/// Between tries to prepare while the store is away.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);

/// Whether the store answers. Lanes close it when they find that it does not; a probe opens it again.
#[derive(Debug, Clone)]
pub struct Gate {
    open: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: watch::Sender::new(true) }
    }
}

impl Gate {
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_if_modified(|open| !std::mem::replace(open, true));
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }
}

/// How many lanes, and how much they take at once.
#[derive(Debug, Clone, Copy)]
pub struct LanesConfig {
    pub lanes: usize,
    pub batch: usize,
}

/// A command with what is needed to settle it.
#[derive(Debug)]
pub(super) struct Item {
    pub task: Task,
    key: Option<u64>,
    /// `None` for a kept command, which nobody delivered.
    pub ticket: Option<Ticket>,
    pub received: Instant,
    stale: u32,
}

enum Arrival {
    Ready(Box<Item>),
    /// A place in the queue for a command that is being prepared.
    Preparing {
        place: u64,
        key: Option<u64>,
    },
    Prepared {
        place: u64,
        item: Box<Item>,
    },
}

enum Slot {
    Ready(Box<Item>),
    Preparing { place: u64, key: Option<u64> },
}

/// The way into the lanes.
#[derive(Debug, Clone)]
pub struct Lanes {
    senders: Arc<[mpsc::UnboundedSender<Arrival>]>,
    services: Services,
    tracker: TaskTracker,
    /// What is waiting or running; for the pause of kept commands and for tests of idleness.
    stop: CancellationToken,
    places: Arc<std::sync::atomic::AtomicU64>,
}

impl Lanes {
    /// Starts the lanes. They end once `stop` is cancelled and what they had begun is settled.
    pub fn start<S: Store, P: Patience + 'static, F: Forget>(
        config: LanesConfig,
        runner: &Arc<Runner<S, P>>,
        gate: &Gate,
        sessions: &watch::Receiver<Option<Arc<Session>>>,
        forget: &Arc<F>,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let mut senders = Vec::with_capacity(config.lanes);
        let mut receivers = Vec::with_capacity(config.lanes);
        for _ in 0..config.lanes.max(1) {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.push(sender);
            receivers.push(receiver);
        }
        let lanes = Self {
            senders: senders.into(),
            services: runner.services.clone(),
            tracker: tracker.clone(),
            stop: stop.clone(),
            places: Arc::default(),
        };
        for arrivals in receivers {
            let lane = Lane {
                arrivals,
                queue: VecDeque::new(),
                preparing: 0,
                runner: Arc::clone(runner),
                gate: gate.clone(),
                settler: Settler::new(sessions.clone(), Arc::clone(forget), tracker.clone()),
                batch: config.batch.max(1),
                lanes: lanes.clone(),
                stop: stop.clone(),
            };
            tracker.spawn(lane.run());
        }
        lanes
    }

    /// Takes a command that was delivered.
    pub(super) fn submit(&self, task: Task, ticket: Ticket) {
        self.enter(task, Some(ticket));
    }

    /// Takes a kept command that is due.
    pub fn submit_kept(&self, task: Task) {
        self.enter(task, None);
    }

    fn enter(&self, task: Task, ticket: Option<Ticket>) {
        let key = task.order_key().map(|key| hash(&key));
        self.dispatch(Box::new(Item { task, key, ticket, received: Instant::now(), stale: 0 }));
    }

    fn dispatch(&self, item: Box<Item>) {
        let key = item.key;
        let spread = key.or_else(|| item.task.key.map(|key| hash(&key.message_id))).unwrap_or(0);
        let lane = usize::try_from(spread).unwrap_or(usize::MAX) % self.senders.len();
        let Some(sender) = self.senders.get(lane) else { return };
        // A lane that is gone leaves the item to be delivered again.
        if !item.task.prepares() {
            drop(sender.send(Arrival::Ready(item)));
            return;
        }
        let place = self.places.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        drop(sender.send(Arrival::Preparing { place, key }));
        let (sender, services, stop) = (sender.clone(), self.services.clone(), self.stop.clone());
        self.tracker.spawn(async move {
            let item = prepared(item, &services, &stop).await;
            failpoint::hit("after_prepare");
            drop(sender.send(Arrival::Prepared { place, item }));
        });
    }
}

/// Prepares, for as long as the store is away. Any other failure shows when the command runs.
async fn prepared(mut item: Box<Item>, services: &Services, stop: &CancellationToken) -> Box<Item> {
    while let Err(failure) = prepare(&mut item.task, services).await {
        if failure.kind != FailureKind::Away {
            tracing::warn!(message.r#type = item.task.message_type, %failure, "a command could not be prepared");
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(PREPARE_AGAIN) => {}
            () = stop.cancelled() => break,
        }
    }
    item
}

fn hash(key: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

struct Lane<S, P, F> {
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    queue: VecDeque<Slot>,
    /// How many slots are still being prepared.
    preparing: usize,
    runner: Arc<Runner<S, P>>,
    gate: Gate,
    settler: Settler<F>,
    batch: usize,
    lanes: Lanes,
    stop: CancellationToken,
}

impl<S: Store, P: Patience, F: Forget> Lane<S, P, F> {
    async fn run(mut self) {
        loop {
            while let Ok(arrival) = self.arrivals.try_recv() {
                self.arrive(arrival);
            }
            let items = self.take();
            if items.is_empty() {
                tokio::select! {
                    biased;
                    arrival = self.arrivals.recv() => match arrival {
                        Some(arrival) => self.arrive(arrival),
                        None => return,
                    },
                    () = self.stop.cancelled(), if self.queue.is_empty() => return,
                }
                continue;
            }
            self.settle(items).await;
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Ready(item) => self.queue.push_back(Slot::Ready(item)),
            Arrival::Preparing { place, key } => {
                self.preparing += 1;
                self.queue.push_back(Slot::Preparing { place, key });
            }
            Arrival::Prepared { place, item } => {
                let slot = self
                    .queue
                    .iter_mut()
                    .find(|slot| matches!(slot, Slot::Preparing { place: held, .. } if *held == place));
                if let Some(slot) = slot {
                    self.preparing -= 1;
                    *slot = Slot::Ready(item);
                }
            }
        }
    }

    /// What can run now, in the order it came, up to a batch.
    fn take(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut kept = VecDeque::new();
        let mut held: HashSet<u64> = HashSet::new();
        while items.len() < self.batch {
            match self.queue.pop_front() {
                None => break,
                // Delivered by a session that is over: it comes again, and nobody has begun it.
                Some(Slot::Ready(item)) if item.ticket.as_ref().is_some_and(|t| t.session.is_over()) => {}
                Some(Slot::Ready(item)) if item.key.is_some_and(|key| held.contains(&key)) => {
                    kept.push_back(Slot::Ready(item));
                }
                Some(Slot::Ready(item)) => items.push(*item),
                Some(Slot::Preparing { place, key }) => {
                    held.extend(key);
                    kept.push_back(Slot::Preparing { place, key });
                }
            }
        }
        while let Some(slot) = kept.pop_back() {
            self.queue.push_front(slot);
        }
        items
    }

    /// Runs a batch until the store has taken it, and hands it on to be answered and acknowledged.
    async fn settle(&mut self, items: Vec<Item>) {
        let size = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let (tasks, rest): (Vec<Task>, Vec<_>) = items
            .into_iter()
            .map(|item| (item.task, (item.key, item.ticket, item.received, item.stale)))
            .unzip();
        let begun = Instant::now();
        let outcomes = loop {
            match self.outcomes(&tasks, &rest).await {
                Ok(outcomes) => break outcomes,
                Err(failure) => {
                    if self.gate.is_open() {
                        tracing::warn!(%failure, "Postgres is away; commands wait");
                    }
                    self.gate.close();
                    if !self.wait_for_store().await {
                        // Shutting down: what is not settled is delivered again.
                        return;
                    }
                }
            }
        };
        histogram!(crate::metrics::BATCH_SIZE).record(f64::from(size));
        histogram!(crate::metrics::BATCH_SECONDS).record(begun.elapsed());
        let mut settled = Vec::with_capacity(outcomes.len());
        for ((task, (key, ticket, received, stale)), outcome) in tasks.into_iter().zip(rest).zip(outcomes) {
            let item = Item { task, key, ticket, received, stale: stale + 1 };
            match outcome {
                Outcome::Stale => self.prepare_again(Box::new(item)),
                outcome => settled.push(Settled { item, outcome }),
            }
        }
        self.settler.settle(settled).await;
    }

    async fn outcomes(
        &self,
        tasks: &[Task],
        rest: &[(Option<u64>, Option<Ticket>, Instant, u32)],
    ) -> Result<Vec<Outcome>, Failure> {
        let mut outcomes = self.runner.run(tasks).await?;
        for ((outcome, task), (_, _, _, stale)) in outcomes.iter_mut().zip(tasks).zip(rest) {
            if matches!(outcome, Outcome::Stale) && *stale >= MAX_STALE {
                let failure = Failure::new(FailureKind::Permanent, "what it prepared never fitted the state");
                *outcome = self.runner.give_up(task, &failure).await?;
            }
        }
        Ok(outcomes)
    }

    /// Goes to the head of the queue, so that later commands for the same user stay behind it.
    fn prepare_again(&mut self, item: Box<Item>) {
        let place = self.lanes.places.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.queue.push_front(Slot::Preparing { place, key: item.key });
        self.preparing += 1;
        let lane =
            item.key.map_or(0, |key| usize::try_from(key).unwrap_or(usize::MAX) % self.lanes.senders.len());
        let Some(sender) = self.lanes.senders.get(lane).cloned() else { return };
        let (services, stop) = (self.lanes.services.clone(), self.stop.clone());
        self.lanes.tracker.spawn(async move {
            let item = prepared(item, &services, &stop).await;
            drop(sender.send(Arrival::Prepared { place, item }));
        });
    }

    /// `false` when it is time to stop instead.
    async fn wait_for_store(&self) -> bool {
        let mut open = self.gate.watch();
        tokio::select! {
            opened = open.wait_for(|open| *open) => opened.is_ok(),
            () = self.stop.cancelled() => false,
        }
    }
}
