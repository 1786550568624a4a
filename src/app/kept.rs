//! Runs kept commands again when they are due, in the same lanes as if just delivered.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::application::judge::Judge;
use crate::application::kept::{KeptCommand, KeptReason, Verdict};
use crate::application::ports::FailedCommands;
use crate::application::task::Task;
use crate::interfaces::amqp::{Flow, Forget, InHand, Lanes};

/// How often it looks for what is due.
const LOOK: Duration = Duration::from_millis(500);
/// How often those that are still in hand are held on to. One may wait for minutes for its password to be hashed.
const HOLD: Duration = Duration::from_secs(5);
/// How often the metrics are told how many there are.
const COUNT: Duration = Duration::from_secs(10);
/// While so many are in hand no more are taken, and never more at once to be tried, or to be told.
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
    let (mut in_hand, mut held): (Vec<(Uuid, InHand)>, _) = (Vec::new(), Instant::now());
    let mut counted: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        in_hand.retain(|(_, command)| command.lasts());
        if !in_hand.is_empty() && held.elapsed() >= HOLD {
            let ids: Vec<Uuid> = in_hand.iter().map(|(id, _)| *id).collect();
            if let Err(failure) = failed.hold(&ids).await {
                // Before that, nothing is taken: it could be one of them.
                tracing::debug!(%failure, "could not hold on to kept commands");
                continue;
            }
            held = Instant::now();
        }
        if *flow.borrow() != Flow::Open {
            continue;
        }
        if counted.is_none_or(|at| at.elapsed() >= COUNT) {
            counted = Some(Instant::now());
            tell(&*failed).await;
        }
        let room = LIMIT.saturating_sub(u32::try_from(in_hand.len()).unwrap_or(u32::MAX));
        if room == 0 {
            continue;
        }
        match failed.due(room).await {
            Ok(due) => in_hand.extend(due.into_iter().map(|kept| {
                let id = kept.id;
                (id, lanes.submit_kept(again(&judge, kept)))
            })),
            Err(failure) => tracing::debug!(%failure, "could not look for due commands"),
        }
    }
}

async fn tell<F: FailedCommands>(failed: &F) {
    match failed.count().await {
        #[expect(clippy::cast_precision_loss, reason = "metrics")]
        Ok((waiting, dead)) => {
            gauge!(crate::metrics::FAILED_COMMANDS, "state" => "waiting").set(waiting as f64);
            gauge!(crate::metrics::FAILED_COMMANDS, "state" => "dead").set(dead as f64);
        }
        Err(failure) => tracing::debug!(%failure, "could not count failed commands"),
    }
}

/// A task for one more try, or for the last word where there is none left.
fn again(judge: &Judge, kept: KeptCommand) -> Task {
    if matches!(kept.verdict, Verdict::Untold { .. }) {
        return judge.untold(kept);
    }
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

/// Brings the rows of kept commands up to date whose answers are on their way.
#[derive(Debug)]
pub(super) struct ForgetKept<F>(pub Arc<F>);

impl<F: FailedCommands + 'static> Forget for ForgetKept<F> {
    async fn forget(&self, done: Vec<Uuid>, dead: Vec<Uuid>) {
        let forgotten = if done.is_empty() { Ok(()) } else { self.0.forget(&done).await };
        let noted = if dead.is_empty() { Ok(()) } else { self.0.told(&dead).await };
        if let Err(failure) = forgotten.and(noted) {
            // They are due again in a minute, and then find the stored answers.
            tracing::warn!(%failure, "the rows of kept commands that are done could not be brought up to date");
        }
    }
}
