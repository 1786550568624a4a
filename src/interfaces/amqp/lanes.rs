//! Lanes: each runs what waits as one batch, as soon as its last batch is done.
//!
//! Commands with one order key share a lane and keep their order. A command that has to be prepared holds back later
//! ones with its key, and nobody else's, until it is committed and there is room to answer it.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batches::Batches;
use super::gate::Gate;
use super::gathering::{self, Gathering};
use super::item::{Counted, Handling, InHand, Item, Turn};
use super::session::{Session, Ticket};
use super::settle::{Forget, Settler};
use crate::application::batch::{Runner, prepare};
use crate::application::error::FailureKind;
use crate::application::ports::{Patience, Services, Store};
use crate::application::task::Task;
use crate::failpoint;
use crate::lifecycle::vital;

/// Between tries to prepare while the store is away.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);

/// How many lanes, and how much they take at once.
#[derive(Debug, Clone, Copy)]
pub struct LanesConfig {
    pub lanes: usize,
    pub batch: usize,
}

#[derive(Debug)]
pub(super) enum Arrival {
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
    /// What had this place has run elsewhere, or was lost.
    Done {
        place: u64,
    },
}

enum Slot {
    Ready(Box<Item>),
    /// Waits for its turn to run with other prepared ones.
    Prepared {
        place: u64,
        item: Box<Item>,
    },
    /// Being prepared, or running elsewhere.
    Away {
        place: u64,
        key: Option<u64>,
    },
}

/// The way into the lanes.
#[derive(Debug, Clone)]
pub struct Lanes {
    senders: Arc<[mpsc::UnboundedSender<Arrival>]>,
    /// To where prepared commands run.
    gathering: mpsc::UnboundedSender<Box<Item>>,
    preparing: watch::Sender<usize>,
    /// Those that have to be prepared and are not settled.
    unsettled: watch::Sender<usize>,
    services: Services,
    tracker: TaskTracker,
    stop: CancellationToken,
    places: Arc<AtomicU64>,
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
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..config.lanes.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        let (gathering, prepared) = mpsc::unbounded_channel();
        let (preparing, unsettled) = (watch::Sender::new(0), watch::Sender::new(0));
        let given_up = CancellationToken::new();
        let lanes = Self {
            senders: senders.into(),
            gathering: gathering.clone(),
            preparing,
            unsettled,
            services: runner.services.clone(),
            tracker: tracker.clone(),
            stop: stop.clone(),
            places: Arc::default(),
        };
        let batches = || Batches {
            runner: Arc::clone(runner),
            gate: gate.clone(),
            settler: Settler::new(sessions.clone(), Arc::clone(forget), tracker.clone()),
            size: config.batch.max(1),
            stop: stop.clone(),
            given_up: given_up.clone(),
        };
        for arrivals in receivers {
            let lane = Lane {
                arrivals,
                gathering: gathering.clone(),
                queue: VecDeque::new(),
                batches: batches(),
                stop: stop.clone(),
            };
            tracker.spawn(vital(lane.run()));
        }
        let together = Gathering {
            arrivals: prepared,
            preparing: lanes.preparing.subscribe(),
            unsettled: lanes.unsettled.subscribe(),
            batches: Arc::new(batches()),
            room: Arc::new(Semaphore::new(gathering::AT_ONCE)),
            lanes: lanes.clone(),
            tracker: tracker.clone(),
            stop: stop.clone(),
        };
        tracker.spawn(vital(together.run()));
        lanes
    }

    /// Takes a command that was delivered.
    pub(super) fn submit(&self, task: Task, ticket: Ticket) {
        self.enter(task, Some(ticket), None);
    }

    /// Takes a kept command that is due.
    pub fn submit_kept(&self, task: Task) -> InHand {
        let presence = Arc::new(());
        let in_hand = InHand(Arc::downgrade(&presence));
        self.enter(task, None, Some(presence));
        in_hand
    }

    fn enter(&self, task: Task, ticket: Option<Ticket>, presence: Option<Arc<()>>) {
        let key = task.order_key().map(|key| hash(&key));
        let spread = key.or_else(|| task.key.map(|key| hash(&key.message_id))).unwrap_or(0);
        let lane = usize::try_from(spread).unwrap_or(usize::MAX) % self.senders.len();
        let Some(lane) = self.senders.get(lane).cloned() else { return };
        let prepares = task.prepares();
        let handling =
            Handling { key, ticket, received: Instant::now(), stale: 0, turn: None, _presence: presence };
        let mut item = Box::new(Item { task, handling });
        // A lane that is gone leaves the item to be delivered again.
        if !prepares {
            drop(lane.send(Arrival::Ready(item)));
            return;
        }
        let place = self.places.fetch_add(1, Ordering::Relaxed);
        drop(lane.send(Arrival::Preparing { place, key }));
        let counted = Counted::among(&self.unsettled);
        item.handling.turn = Some(Turn { lane: lane.clone(), place, _counted: counted });
        self.prepare(item, move |item| drop(lane.send(Arrival::Prepared { place, item })));
    }

    /// Takes a command back whose preparation did not fit the state. It has had its turn.
    pub(super) fn prepare_again(&self, item: Box<Item>) {
        let gathering = self.gathering.clone();
        self.prepare(item, move |item| drop(gathering.send(item)));
    }

    fn prepare(&self, item: Box<Item>, then: impl FnOnce(Box<Item>) + Send + 'static) {
        let preparing = Counted::among(&self.preparing);
        let (services, stop) = (self.services.clone(), self.stop.clone());
        self.tracker.spawn(vital(async move {
            let session = item.session();
            let item = tokio::select! {
                item = prepared(item, &services, &stop) => item,
                // It comes again, and what is left of it must not be prepared in front of that.
                () = ended(session) => return,
            };
            failpoint::hit("after_prepare");
            drop(preparing);
            then(item);
        }));
    }
}

/// Never resolves where there is no session.
async fn ended(session: Option<Arc<Session>>) {
    match session {
        Some(session) => session.ended().await,
        None => std::future::pending().await,
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
    gathering: mpsc::UnboundedSender<Box<Item>>,
    queue: VecDeque<Slot>,
    batches: Batches<S, P, F>,
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
            // Only what is prepared is ever stale; should another be, it runs again.
            for item in self.batches.run(items).await.into_iter().rev() {
                self.queue.push_front(Slot::Ready(Box::new(item)));
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Ready(item) => self.queue.push_back(Slot::Ready(item)),
            Arrival::Preparing { place, key } => self.queue.push_back(Slot::Away { place, key }),
            Arrival::Prepared { place, item } => {
                if let Some(slot) = self.position(place).and_then(|at| self.queue.get_mut(at)) {
                    *slot = Slot::Prepared { place, item };
                }
            }
            Arrival::Done { place } => {
                if let Some(at) = self.position(place) {
                    self.queue.remove(at);
                }
            }
        }
    }

    fn position(&self, place: u64) -> Option<usize> {
        self.queue.iter().position(|slot| matches!(slot, Slot::Away { place: held, .. } if *held == place))
    }

    /// What can run now, in the order it came, up to a batch. Prepared commands whose turn it is are sent to run
    /// with others of their kind.
    fn take(&mut self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut kept = VecDeque::new();
        let mut held: HashSet<u64> = HashSet::new();
        while items.len() < self.batches.size {
            match self.queue.pop_front() {
                None => break,
                Some(Slot::Ready(item) | Slot::Prepared { item, .. }) if item.is_stranded() => {}
                Some(Slot::Ready(item)) if item.handling.key.is_some_and(|key| held.contains(&key)) => {
                    kept.push_back(Slot::Ready(item));
                }
                Some(Slot::Ready(item)) => items.push(*item),
                Some(Slot::Prepared { place, item }) => {
                    let key = item.handling.key;
                    let waits = key.is_some_and(|key| held.contains(&key))
                        || items.iter().any(|earlier| key.is_some() && earlier.handling.key == key);
                    held.extend(key);
                    kept.push_back(if waits {
                        Slot::Prepared { place, item }
                    } else {
                        drop(self.gathering.send(item));
                        Slot::Away { place, key }
                    });
                }
                Some(Slot::Away { place, key }) => {
                    held.extend(key);
                    kept.push_back(Slot::Away { place, key });
                }
            }
        }
        while let Some(slot) = kept.pop_back() {
            self.queue.push_front(slot);
        }
        items
    }
}
