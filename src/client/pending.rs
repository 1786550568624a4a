//! The calls that wait for an answer, by correlation id. They outlive a connection: an answer that
//! comes after a reconnect still finds its call.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

/// What the broker handed over for a call.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) body: Vec<u8>,
    pub(super) replayed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    calls: Mutex<HashMap<Uuid, oneshot::Sender<Delivered>>>,
}

impl Pending {
    /// Opens a place for one answer. Dropping it closes the place.
    pub(super) fn open(self: &Arc<Self>) -> Waiting {
        let correlation_id = Uuid::new_v4();
        let (sender, answer) = oneshot::channel();
        self.calls.lock().insert(correlation_id, sender);
        Waiting { correlation_id, answer, pending: Arc::clone(self) }
    }

    /// Hands an answer to its call. False when nobody waits for it: a second answer to a request
    /// that was sent again, or one that came too late.
    pub(super) fn answer(&self, correlation_id: &str, delivered: Delivered) -> bool {
        let Ok(correlation_id) = Uuid::try_parse(correlation_id) else {
            return false;
        };
        let waiting = self.calls.lock().remove(&correlation_id);
        waiting.is_some_and(|call| call.send(delivered).is_ok())
    }
}

/// One call's place in the table.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) correlation_id: Uuid,
    pub(super) answer: oneshot::Receiver<Delivered>,
    pending: Arc<Pending>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pending.calls.lock().remove(&self.correlation_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(text: &str) -> Delivered {
        Delivered { body: text.as_bytes().to_vec(), replayed: false }
    }

    #[tokio::test]
    async fn each_answer_finds_its_own_call() {
        let pending = Arc::new(Pending::default());
        let (mut one, mut two) = (pending.open(), pending.open());
        assert!(pending.answer(&two.correlation_id.to_string(), delivered("two")));
        assert!(pending.answer(&one.correlation_id.to_string(), delivered("one")));
        assert_eq!((&mut one.answer).await.unwrap().body, b"one");
        assert_eq!((&mut two.answer).await.unwrap().body, b"two");
    }

    #[test]
    fn a_second_answer_and_a_strangers_are_dropped() {
        let pending = Arc::new(Pending::default());
        let call = pending.open();
        let id = call.correlation_id.to_string();
        assert!(pending.answer(&id, delivered("first")));
        assert!(!pending.answer(&id, delivered("second")));
        assert!(!pending.answer("not an id", delivered("stray")));
    }

    #[test]
    fn a_call_that_is_given_up_leaves_nothing_behind() {
        let pending = Arc::new(Pending::default());
        drop(pending.open());
        assert!(pending.calls.lock().is_empty());
    }
}
