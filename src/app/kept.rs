//! Runs kept commands again when they are due, in the same lanes as if just delivered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::application::judge::Judge;
use crate::application::kept::{KeptCommand, KeptReason};
use crate::application::ports::FailedCommands;
use crate::application::task::Task;
use crate::interfaces::amqp::{Flow, Forget, Lanes};

/// How often it looks for what is due.
const LOOK: Duration = Duration::from_millis(500);
/// How many it takes at once.
const LIMIT: u32 = 64;
/// How often a try may begin and never end before it is not begun again.
const MAX_UNENDED: u32 = 5;

/// Looks for due commands until `stop` is cancelled. While consuming is paused, so is this.
pub(super) async fn run_kept<F: FailedCommands>(
    failed: Arc<F>,
    judge: Arc<Judge>,
    lanes: Lanes,
    flow: watch::Receiver<Flow>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if *flow.borrow() != Flow::Open {
            continue;
        }
        match failed.due(LIMIT).await {
            Ok(due) => due.into_iter().for_each(|kept| lanes.submit_kept(again(&judge, kept))),
            Err(failure) => tracing::debug!(%failure, "could not look for due commands"),
        }
    }
}

/// A task for one more try, or for the last word where there is none left.
fn again(judge: &Judge, kept: KeptCommand) -> Task {
    if kept.unended >= MAX_UNENDED {
        let error = "its tries began and never ended: it may kill the process";
        return judge.given_up(kept, KeptReason::DeliveryLimit, error);
    }
    let message_id = kept.key.map(|key| tracing::field::display(key.message_id));
    match judge.again(&kept) {
        Ok(task) => task,
        Err(failure) => {
            tracing::error!(message.id = message_id, %failure, "a kept command cannot be read");
            judge.given_up(kept, KeptReason::Failed, "its body cannot be opened: was ROSTER_SECRET changed?")
        }
    }
}

/// Deletes the rows of kept commands whose answers are on their way.
#[derive(Debug)]
pub(super) struct ForgetKept<F>(pub Arc<F>);

impl<F: FailedCommands + 'static> Forget for ForgetKept<F> {
    async fn forget(&self, ids: Vec<uuid::Uuid>) {
        if ids.is_empty() {
            return;
        }
        if let Err(failure) = self.0.forget(&ids).await {
            // They are due again in a minute, and then find the stored answers.
            tracing::warn!(%failure, "kept commands that are done could not be deleted");
        }
    }
}
