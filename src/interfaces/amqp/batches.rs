//! Runs a batch until the store has taken it, and hands it on to be answered and acknowledged.

use std::sync::Arc;
use std::time::Instant;

use metrics::histogram;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::item::{Handling, Item};
use super::settle::{Forget, Settled, Settler};
use crate::application::batch::Runner;
use crate::application::error::{Failure, FailureKind};
use crate::application::ports::{Patience, Store};
use crate::application::task::{Outcome, Task};

/// How often a command is prepared anew because the state moved on, before it counts as failed.
const MAX_STALE: u32 = 5;

#[derive(Debug)]
pub(super) struct Batches<S, P, F> {
    pub runner: Arc<Runner<S, P>>,
    pub gate: Gate,
    pub settler: Settler<F>,
    /// How many commands make a batch, at most.
    pub size: usize,
    pub stop: CancellationToken,
    /// A batch was given up, for it was time to stop: nobody begins or tries another, which could overtake it.
    pub given_up: CancellationToken,
}

impl<S: Store, P: Patience, F: Forget> Batches<S, P, F> {
    /// Gives back those that have to be prepared anew. What is not settled when it is time to stop is left to be
    /// delivered again.
    pub async fn run(&self, items: Vec<Item>) -> Vec<Item> {
        let size = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let (tasks, handlings): (Vec<Task>, Vec<Handling>) =
            items.into_iter().map(|item| (item.task, item.handling)).unzip();
        let begun = Instant::now();
        let outcomes = loop {
            if self.given_up.is_cancelled() {
                return Vec::new();
            }
            match self.outcomes(&tasks, &handlings).await {
                Ok(outcomes) => break outcomes,
                Err(failure) => {
                    if self.gate.is_open() {
                        tracing::warn!(%failure, "Postgres is away; commands wait");
                    }
                    self.gate.close();
                    if !self.wait_for_store().await {
                        self.given_up.cancel();
                        return Vec::new();
                    }
                }
            }
        };
        histogram!(crate::metrics::BATCH_SIZE).record(f64::from(size));
        histogram!(crate::metrics::BATCH_SECONDS).record(begun.elapsed());
        let (mut settled, mut stale, mut turns) =
            (Vec::with_capacity(outcomes.len()), Vec::new(), Vec::new());
        for ((task, mut handling), outcome) in tasks.into_iter().zip(handlings).zip(outcomes) {
            if matches!(outcome, Outcome::Stale) {
                handling.stale += 1;
                stale.push(Item { task, handling });
            } else {
                turns.extend(handling.turn.take());
                settled.push(Settled { item: Item { task, handling }, outcome });
            }
        }
        self.settler.settle(settled).await;
        // Not before there was room to answer them: those after them, in another lane, might find some sooner.
        drop(turns);
        stale
    }

    async fn outcomes(&self, tasks: &[Task], handlings: &[Handling]) -> Result<Vec<Outcome>, Failure> {
        let mut outcomes = self.runner.run(tasks).await?;
        for ((outcome, task), handling) in outcomes.iter_mut().zip(tasks).zip(handlings) {
            if matches!(outcome, Outcome::Stale) && handling.stale >= MAX_STALE {
                let failure = Failure::new(FailureKind::Permanent, "what it prepared never fitted the state");
                *outcome = self.runner.give_up(task, &failure).await?;
            }
        }
        Ok(outcomes)
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
