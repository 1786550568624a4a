//! Acknowledges deliveries: in runs where every earlier one is settled, alone where not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::session::InFlight;

/// How long a settled delivery waits for earlier ones before it is acknowledged alone.
const WAIT_FOR_EARLIER: Duration = Duration::from_millis(50);
/// The same where one that takes long must not keep the places of those behind it.
const WAIT_BRIEFLY: Duration = Duration::from_millis(5);
/// How many deliveries that are settled one by one are acknowledged together at most.
const TOGETHER: usize = 256;

/// The acknowledgements of one channel. One frame with `multiple` covers a run of tags that are all settled;
/// it never covers one that is not.
#[derive(Debug, Clone)]
pub(super) struct Acks {
    channel: Channel,
    patience: Duration,
    /// Held until an ack is written: the broker closes the channel over a tag that a later, wider ack has
    /// overtaken.
    runs: Arc<Mutex<Runs>>,
    /// What this channel has delivered and is not settled.
    pub in_flight: Arc<InFlight>,
}

#[derive(Debug)]
struct Runs {
    /// Every tag below it is acknowledged.
    next: u64,
    /// Settled, but behind a gap, and not acknowledged yet.
    early: BTreeSet<u64>,
    /// Acknowledged alone, behind a gap.
    alone: BTreeSet<u64>,
    sweeping: bool,
}

impl Default for Runs {
    fn default() -> Self {
        // The broker counts a channel's deliveries from 1.
        Self { next: 1, early: BTreeSet::new(), alone: BTreeSet::new(), sweeping: false }
    }
}

impl Runs {
    /// Takes tags that are settled; the last one of the run from `next` on that is not acknowledged yet: the
    /// broker closes the channel over a run that ends in one it no longer knows.
    fn settle(&mut self, tags: impl IntoIterator<Item = u64>) -> Option<u64> {
        self.early.extend(tags.into_iter().filter(|tag| *tag >= self.next && !self.alone.contains(tag)));
        let mut last = None;
        loop {
            if self.early.remove(&self.next) {
                last = Some(self.next);
            } else if !self.alone.remove(&self.next) {
                return last;
            }
            self.next += 1;
        }
    }

    fn sweep(&mut self) -> Vec<u64> {
        let tags: Vec<u64> = std::mem::take(&mut self.early).into_iter().collect();
        self.alone.extend(&tags);
        tags
    }
}

impl Acks {
    pub fn new(channel: Channel) -> Self {
        Self { channel, patience: WAIT_FOR_EARLIER, runs: Arc::default(), in_flight: Arc::default() }
    }

    /// Whether both are of one channel.
    pub fn are_those_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.runs, &other.runs)
    }

    /// For deliveries that are settled one by one: those that were settled while the last ones were acknowledged
    /// share a frame. Ends when every sender is gone.
    pub fn gather(mut self) -> (mpsc::UnboundedSender<u64>, JoinHandle<()>) {
        self.patience = WAIT_BRIEFLY;
        let (sender, mut settled) = mpsc::unbounded_channel();
        let gathering = tokio::spawn(async move {
            let mut tags = Vec::new();
            while settled.recv_many(&mut tags, TOGETHER).await > 0 {
                self.settle(std::mem::take(&mut tags)).await;
            }
        });
        (sender, gathering)
    }

    /// Acknowledges deliveries that are settled. An ack that cannot be sent is a redelivery to come, which the
    /// inbox answers.
    pub async fn settle(&self, tags: Vec<u64>) {
        let mut runs = self.runs.lock().await;
        if let Some(tag) = runs.settle(tags) {
            self.ack(tag, true).await;
        }
        if runs.early.is_empty() || runs.sweeping {
            return;
        }
        runs.sweeping = true;
        let acks = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(acks.patience).await;
            let mut runs = acks.runs.lock().await;
            runs.sweeping = false;
            for tag in runs.sweep() {
                acks.ack(tag, false).await;
            }
        });
    }

    async fn ack(&self, tag: u64, multiple: bool) {
        if let Err(error) = self.channel.basic_ack(tag, BasicAckOptions { multiple }).await {
            tracing::debug!(%error, "an ack could not be sent; its message will come again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_never_covers_what_is_not_settled() {
        let mut runs = Runs::default();
        assert_eq!(runs.settle([2, 3]), None);
        assert_eq!(runs.settle([1]), Some(3));
        assert_eq!(runs.settle([5]), None);
        assert_eq!(runs.sweep(), [5]);
        assert_eq!(runs.settle([6]), None);
        assert_eq!(runs.settle([4]), Some(6));
        assert_eq!(runs.settle([8]), None);
        assert_eq!(runs.settle([7]), Some(8));
    }

    #[test]
    fn what_was_acknowledged_alone_is_not_acknowledged_again() {
        let mut runs = Runs::default();
        runs.settle([2]);
        assert_eq!(runs.sweep(), [2]);
        assert_eq!(runs.settle([2]), None);
        assert_eq!(runs.settle([1]), Some(1), "the broker no longer knows 2");
        assert!(runs.early.is_empty() && runs.alone.is_empty());
    }
}
