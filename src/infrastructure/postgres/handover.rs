//! What a commit hands over to the relay: the wake-up, and the events themselves if this process publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::application::ports::NewEvent;

/// How many events are remembered. Older ones are read back from the log.
const CAPACITY: usize = 20_000;

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
    batches: BTreeMap<i64, Arc<[NewEvent]>>,
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

    pub(super) fn remember(&self, batch: i64, events: Vec<NewEvent>) {
        if !events.is_empty() && self.leads() {
            self.recent.lock().insert(batch, events.into(), CAPACITY);
        }
    }

    pub(super) fn recall(&self, batch: i64) -> Option<Arc<[NewEvent]>> {
        self.recent.lock().batches.get(&batch).cloned()
    }

    pub(super) fn forget(&self, batches: &[i64]) {
        let mut recent = self.recent.lock();
        for batch in batches {
            recent.remove(*batch);
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
    fn insert(&mut self, batch: i64, events: Arc<[NewEvent]>, capacity: usize) {
        self.events += events.len();
        self.batches.insert(batch, events);
        while self.events > capacity {
            let Some((_, oldest)) = self.batches.pop_first() else { break };
            self.events -= oldest.len();
        }
    }

    fn remove(&mut self, batch: i64) {
        if let Some(events) = self.batches.remove(&batch) {
            self.events -= events.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;

    fn events(count: usize) -> Arc<[NewEvent]> {
        let event = NewEvent {
            id: Uuid::nil(),
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
        recent.insert(2, events(3), 5);
        recent.insert(1, events(1), 5);
        recent.insert(3, events(2), 5);
        assert_eq!(recent.batches.keys().copied().collect::<Vec<_>>(), [2, 3]);
        recent.remove(3);
        recent.remove(3);
        assert_eq!(recent.events, 3);
    }

    #[test]
    fn nothing_is_remembered_for_another_process() {
        let handover = Handover::default();
        handover.remember(1, events(1).to_vec());
        assert!(handover.recall(1).is_none());
        handover.leader_came();
        handover.remember(1, events(1).to_vec());
        assert!(handover.recall(1).is_some());
        handover.leader_went();
        assert!(handover.recall(1).is_none());
    }
}
