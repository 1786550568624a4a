//! Where prepared commands wait for company.
//!
//! Hashes end one by one, and a transaction for each would cost a good part of what hashing costs. So those that end
//! close together share one, while enough others are still being hashed. One that is alone runs at once.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batches::Batches;
use super::item::Item;
use super::lanes::Lanes;
use super::settle::Forget;
use crate::application::ports::{Patience, Store};

/// How long the first of them waits, at most.
const PATIENCE: Duration = Duration::from_millis(100);
/// They wait for as many as this part of those that are still being prepared, so by no more than this part of the time
/// that it takes to prepare them.
const PART: usize = 8;

/// The lane of prepared commands. Each holds back its successors in its own lane until it is settled.
pub(super) struct Gathering<S, P, F> {
    pub arrivals: mpsc::UnboundedReceiver<Box<Item>>,
    /// How many are being prepared.
    pub preparing: watch::Receiver<usize>,
    pub batches: Batches<S, P, F>,
    pub lanes: Lanes,
    pub stop: CancellationToken,
}

impl<S: Store, P: Patience, F: Forget> Gathering<S, P, F> {
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
                waiting.retain(|item| !item.is_stranded());
                if !waiting.is_empty() {
                    for item in self.batches.run(std::mem::take(&mut waiting)).await {
                        self.lanes.prepare_again(Box::new(item));
                    }
                }
                continue;
            }
            tokio::select! {
                biased;
                arrival = self.arrivals.recv() => match arrival {
                    Some(item) => enter(&mut waiting, &mut since, *item),
                    None => return,
                },
                () = tokio::time::sleep_until(since + PATIENCE), if !waiting.is_empty() => {}
                () = last(&self.stop, self.preparing.clone()), if waiting.is_empty() => return,
            }
        }
    }

    fn suffice(&self, waiting: usize, since: Instant) -> bool {
        let wanted = wanted(*self.preparing.borrow()).min(self.batches.size);
        waiting >= wanted || waiting > 0 && (since.elapsed() >= PATIENCE || self.stop.is_cancelled())
    }
}

/// How many are to run together while so many others are being prepared.
fn wanted(preparing: usize) -> usize {
    preparing.div_ceil(PART).max(1)
}

fn enter(waiting: &mut Vec<Item>, since: &mut Instant, mut item: Item) {
    item.handling.preparing = None;
    if waiting.is_empty() {
        *since = Instant::now();
    }
    waiting.push(item);
}

/// Resolves when nobody is to come any more.
async fn last(stop: &CancellationToken, mut preparing: watch::Receiver<usize>) {
    stop.cancelled().await;
    // An error says that nobody counts them any more.
    drop(preparing.wait_for(|preparing| *preparing == 0).await);
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
