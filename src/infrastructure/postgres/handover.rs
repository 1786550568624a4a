//! What a commit hands over to the relay: the wake-up, and the events themselves if this process publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::application::ports::NewEvent;

/// How many events are remembered. Older ones are read back from the log.
const CAPACITY: usize = 4_000;

/// Between the store, which commits, and the outbox, from which the relay publishes.
#[derive(Debug, Default)]
pub struct Handover {
    recent: Mutex<Recent>,
    /// More than one for a moment, when a lost leader is dropped after its successor was found.
    leaders: AtomicUsize,
    /// For this process's relay.
    pub(super) here: Notify,
    /// For the relay of another process.
    pub(super) elsewhere: Notify,
}

#[derive(Debug, Default)]
struct Recent {
    /// By the id of the batch's first event: the batch's own id is known only when it is written. Ids of events are
    /// in the order of time.
    batches: BTreeMap<Uuid, Arc<[NewEvent]>>,
    events: usize,
}

impl Handover {
    /// Whether this process's relay publishes.
    pub(super) fn leads(&self) -> bool {
        self.leaders.load(Ordering::Relaxed) > 0
    }

    pub(super) fn leader_came(&self) {
        self.leaders.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leader_went(&self) {
        if self.leaders.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.recent.lock() = Recent::default();
        }
    }

    pub(super) fn remember(&self, batch: &Arc<[NewEvent]>) {
        if self.leads() {
            self.recent.lock().insert(Arc::clone(batch), CAPACITY);
        }
    }

    pub(super) fn recall(&self, first_event: Uuid) -> Option<Arc<[NewEvent]>> {
        self.recent.lock().batches.get(&first_event).cloned()
    }

    pub(super) fn forget(&self, first_events: impl IntoIterator<Item = Uuid>) {
        let mut recent = self.recent.lock();
        for event in first_events {
            recent.remove(event);
        }
    }

    pub(super) fn committed(&self) {
        if self.leads() {
            self.here.notify_one();
        } else {
            self.elsewhere.notify_one();
        }
    }
}

impl Recent {
    fn insert(&mut self, batch: Arc<[NewEvent]>, capacity: usize) {
        let Some(first) = batch.first() else { return };
        self.events += batch.len();
        self.batches.insert(first.id, batch);
        while self.events > capacity {
            let Some((_, oldest)) = self.batches.pop_first() else { break };
            self.events -= oldest.len();
        }
    }

    fn remove(&mut self, first_event: Uuid) {
        if let Some(events) = self.batches.remove(&first_event) {
            self.events -= events.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn events(first: u128, count: usize) -> Arc<[NewEvent]> {
        let event = NewEvent {
            id: Uuid::from_u128(first),
            subject: Uuid::nil(),
            sequence: 1,
            kind: "user.deleted.v1".into(),
            data: "{}".into(),
            occurred_at: DateTime::default(),
            causation_id: Uuid::nil(),
            correlation_id: None,
            actor: "anonymous".into(),
            traceparent: None,
            tracestate: None,
        };
        vec![event; count].into()
    }

    #[test]
    fn the_oldest_batches_are_forgotten_first() {
        let mut recent = Recent::default();
        recent.insert(events(2, 3), 5);
        recent.insert(events(1, 1), 5);
        recent.insert(events(3, 2), 5);
        recent.insert(events(4, 0), 5);
        assert_eq!(recent.batches.keys().map(Uuid::as_u128).collect::<Vec<_>>(), [2, 3]);
        recent.remove(Uuid::from_u128(3));
        recent.remove(Uuid::from_u128(3));
        assert_eq!(recent.events, 3);
    }

    #[test]
    fn nothing_is_remembered_for_another_process() {
        let handover = Handover::default();
        let first = Uuid::from_u128(1);
        handover.remember(&events(1, 1));
        assert!(handover.recall(first).is_none());
        handover.leader_came();
        handover.remember(&events(1, 1));
        assert!(handover.recall(first).is_some());
        handover.leader_went();
        assert!(handover.recall(first).is_none());
    }
}
