//! Where prepared commands wait for company.
//!
//! Hashes end one by one, and a transaction for each would cost a good part of what hashing costs. So those that end
//! close together share one, while enough others are still being hashed. One that is alone runs at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batches::Batches;
use super::item::Item;
use super::lanes::Lanes;
use super::settle::Forget;
use crate::application::ports::{Patience, Store};
use crate::lifecycle::vital;

/// How long the first of them waits for company, at most.
const PATIENCE: Duration = Duration::from_millis(100);
/// They wait for as many as this part of those that are still being prepared, so by no more than this part of the time
/// that it takes to prepare them.
const PART: usize = 8;
/// How many batches of them run at once: one that is held up does not hold up all, and for two there are connections
/// beside those of the lanes.
pub(super) const AT_ONCE: usize = 2;

/// Runs prepared commands. Each holds back its successors in its own lane meanwhile.
pub(super) struct Gathering<S, P, F> {
    pub arrivals: mpsc::UnboundedReceiver<Box<Item>>,
    /// How many are being prepared.
    pub preparing: watch::Receiver<usize>,
    /// How many have to be prepared and are not settled: who may still come.
    pub unsettled: watch::Receiver<usize>,
    pub batches: Arc<Batches<S, P, F>>,
    /// For [`AT_ONCE`] batches.
    pub room: Arc<Semaphore>,
    pub lanes: Lanes,
    pub tracker: TaskTracker,
    pub stop: CancellationToken,
}

impl<S: Store, P: Patience + 'static, F: Forget> Gathering<S, P, F> {
    pub async fn run(mut self) {
        let mut waiting: Vec<Item> = Vec::new();
        let mut since = Instant::now();
        loop {
            while waiting.len() < self.batches.size
                && let Ok(item) = self.arrivals.try_recv()
            {
                enter(&mut waiting, &mut since, *item);
            }
            if self.suffice(waiting.len(), since) {
                self.send_off(std::mem::take(&mut waiting)).await;
                continue;
            }
            tokio::select! {
                biased;
                arrival = self.arrivals.recv() => match arrival {
                    Some(item) => enter(&mut waiting, &mut since, *item),
                    None => return,
                },
                () = tokio::time::sleep_until(since + PATIENCE), if !waiting.is_empty() => {}
                () = last(&self.stop, self.unsettled.clone()), if waiting.is_empty() => return,
            }
        }
    }

    fn suffice(&self, waiting: usize, since: Instant) -> bool {
        let wanted = wanted(*self.preparing.borrow()).min(self.batches.size);
        waiting >= wanted || waiting > 0 && (since.elapsed() >= PATIENCE || self.stop.is_cancelled())
    }

    async fn send_off(&self, mut items: Vec<Item>) {
        // The semaphore is never closed.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        items.retain(|item| !item.is_stranded());
        if items.is_empty() {
            return;
        }
        let (batches, lanes) = (Arc::clone(&self.batches), self.lanes.clone());
        self.tracker.spawn(vital(async move {
            for item in batches.run(items).await {
                lanes.prepare_again(Box::new(item));
            }
            drop(room);
        }));
    }
}

/// How many are to run together while so many others are being prepared.
fn wanted(preparing: usize) -> usize {
    preparing.div_ceil(PART).max(1)
}

fn enter(waiting: &mut Vec<Item>, since: &mut Instant, item: Item) {
    if waiting.is_empty() {
        *since = Instant::now();
    }
    waiting.push(item);
}

/// Resolves when nobody is to come any more.
async fn last(stop: &CancellationToken, mut unsettled: watch::Receiver<usize>) {
    stop.cancelled().await;
    // An error says that nobody counts them any more.
    drop(unsettled.wait_for(|unsettled| *unsettled == 0).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_alone_or_among_few_waits_for_nobody() {
        assert_eq!([0, 1, PART].map(wanted), [1; 3]);
    }

    #[test]
    fn those_among_many_wait_for_a_part_of_them() {
        assert_eq!([PART + 1, 8 * PART].map(wanted), [2, 8]);
    }
}
