//! Settles what a batch decided: reply, confirm, acknowledge, log; in this order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::item::Item;
use super::replies::Outgoing;
use super::session::{Session, Ticket};
use super::wire::reply_properties;
use crate::application::task::Outcome;
use crate::failpoint;
use crate::lifecycle::vital;

/// How many batches of one lane, or of prepared commands, may wait for their replies' confirms while the next ones run.
const BATCHES_SETTLING: usize = 8;
/// How long the answer of a kept command waits for a broker to send it to.
const WAIT_FOR_BROKER: Duration = Duration::from_secs(30);

/// Brings the rows of kept commands up to date once their answers are on their way.
pub trait Forget: Send + Sync + 'static {
    /// Deletes those that are done, and notes that those who waited for the dead were told.
    fn forget(&self, done: Vec<uuid::Uuid>, dead: Vec<uuid::Uuid>) -> impl Future<Output = ()> + Send;
}

/// A command whose transaction has committed.
#[derive(Debug)]
pub(super) struct Settled {
    pub item: Item,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub(super) struct Settler<F> {
    sessions: watch::Receiver<Option<Arc<Session>>>,
    forget: Arc<F>,
    tracker: TaskTracker,
    permits: Arc<Semaphore>,
}

impl<F: Forget> Settler<F> {
    pub fn new(
        sessions: watch::Receiver<Option<Arc<Session>>>,
        forget: Arc<F>,
        tracker: TaskTracker,
    ) -> Self {
        Self { sessions, forget, tracker, permits: Arc::new(Semaphore::new(BATCHES_SETTLING)) }
    }

    /// Hands a batch on; returns once there is room to, so that the lane can go on.
    pub async fn settle(&self, settled: Vec<Settled>) {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (sessions, forget) = (self.sessions.clone(), Arc::clone(&self.forget));
        self.tracker.spawn(vital(async move {
            finish(settled, sessions, &*forget).await;
            drop(permit);
        }));
    }
}

async fn finish<F: Forget>(
    settled: Vec<Settled>,
    sessions: watch::Receiver<Option<Arc<Session>>>,
    forget: &F,
) {
    let mut delivered = Vec::with_capacity(settled.len());
    let mut kept = Vec::new();
    for one in settled {
        if one.item.handling.ticket.is_some() { delivered.push(one) } else { kept.push(one) }
    }
    // A lane's batch can mix the deliveries of a session that is over with those of the next.
    while let Some(session) = delivered
        .iter()
        .find_map(|one| one.item.handling.ticket.as_ref().map(|ticket| Arc::clone(&ticket.session)))
    {
        let (mine, others): (Vec<_>, Vec<_>) = delivered.into_iter().partition(|one| {
            one.item.handling.ticket.as_ref().is_some_and(|ticket| Arc::ptr_eq(&ticket.session, &session))
        });
        delivered = others;
        finish_delivered(&session, mine).await;
    }
    if !kept.is_empty() {
        finish_kept(kept, sessions, forget).await;
    }
}

async fn finish_delivered(session: &Session, settled: Vec<Settled>) {
    if failpoint::bug("ack_before_reply") {
        acknowledge(&settled).await;
    }
    failpoint::hit("before_reply");
    let sent = session.replies.send(settled.iter().flat_map(replies).collect()).await;
    failpoint::hit("after_reply");
    if sent {
        acknowledge(&settled).await;
    }
    failpoint::hit("after_ack");
    for one in &settled {
        tell(one);
    }
}

/// Each on the channel that delivered it: commands and what the broker parked share a session and a batch, and the tags
/// of each channel count from 1.
async fn acknowledge(settled: &[Settled]) {
    let mut tickets: Vec<&Ticket> =
        settled.iter().filter_map(|one| one.item.handling.ticket.as_ref()).collect();
    while let Some(acks) = tickets.first().map(|ticket| ticket.acks.clone()) {
        let (mine, others): (Vec<_>, Vec<_>) =
            tickets.into_iter().partition(|ticket| ticket.acks.are_those_of(&acks));
        acks.settle(mine.into_iter().map(|ticket| ticket.tag).collect()).await;
        tickets = others;
    }
}

/// The answers of kept commands go out by whatever session there is; then their rows go.
async fn finish_kept<F: Forget>(
    settled: Vec<Settled>,
    mut sessions: watch::Receiver<Option<Arc<Session>>>,
    forget: &F,
) {
    let replies: Vec<Outgoing> = settled.iter().flat_map(replies).collect();
    if !replies.is_empty() {
        let session = tokio::time::timeout(
            WAIT_FOR_BROKER,
            sessions.wait_for(|session| session.as_ref().is_some_and(|session| !session.is_over())),
        );
        let Some(session) = session.await.ok().and_then(Result::ok).and_then(|session| session.clone())
        else {
            // The rows stay, are due again in a minute, and then find the stored answers.
            return;
        };
        failpoint::hit("before_reply");
        if !session.replies.send(replies).await {
            return;
        }
    }
    let (mut done, mut dead) = (Vec::new(), Vec::new());
    for one in &settled {
        let Some(kept) = &one.item.task.kept else { continue };
        match &one.outcome {
            Outcome::Answered { .. } => done.push(kept.id),
            Outcome::Dead { .. } | Outcome::AlreadyDead { .. } => dead.push(kept.id),
            Outcome::Waits | Outcome::Kept { .. } | Outcome::Stale => {}
        }
    }
    forget.forget(done, dead).await;
    for one in &settled {
        tell(one);
    }
}

/// The reply, to everyone who waits for it.
fn replies(settled: &Settled) -> Vec<Outgoing> {
    let task = &settled.item.task;
    let (body, answered, replayed) = match &settled.outcome {
        Outcome::Answered { body, replayed, .. } => (body, true, *replayed),
        Outcome::Dead { body, .. } | Outcome::AlreadyDead { body, .. } => (body, false, false),
        Outcome::Waits | Outcome::Kept { .. } | Outcome::Stale => return Vec::new(),
    };
    let own = task.reply_to.iter().map(|reply_to| (reply_to, task.answers_to(), task.trace.clone()));
    let waiters = task.kept.iter().flat_map(|kept| &kept.waiters);
    let others = waiters.map(|one| (&one.reply_to, one.correlation_id.clone(), one.trace()));
    let mut replies: Vec<Outgoing> = Vec::new();
    let mut told = HashSet::new();
    for (reply_to, correlation_id, trace) in own.chain(others) {
        let replayed = replayed || (answered && !told.is_empty());
        if told.insert((reply_to, correlation_id.clone())) {
            replies.push(Outgoing {
                reply_to: reply_to.clone(),
                properties: reply_properties(correlation_id.as_deref(), &trace, replayed),
                body: Arc::clone(body),
            });
        }
    }
    replies
}

/// The one event per message that goes to the log, and its metrics.
fn tell(settled: &Settled) {
    let task = &settled.item.task;
    let duration = settled.item.handling.received.elapsed();
    let (outcome, code) = match &settled.outcome {
        Outcome::Answered { code: None, replayed: false, .. } => ("done", None),
        Outcome::Answered { code, replayed: true, .. } => ("replayed", *code),
        Outcome::Answered { code, .. } => ("refused", *code),
        Outcome::Kept { .. } => ("kept", None),
        Outcome::Dead { code, .. } => ("dead", Some(*code)),
        Outcome::Waits => ("waits", None),
        Outcome::AlreadyDead { code, .. } => ("already_dead", Some(*code)),
        Outcome::Stale => ("stale", None),
    };
    let code = code.map_or("", |code| code.as_str());
    let attempt = task.kept.as_ref().map_or(0, |kept| kept.attempts) + 1;
    // What a stranger calls its message is no label: there is no end to the names.
    let kind = match &task.work {
        crate::application::task::Work::Run(command) => command.name(),
        _ => "other",
    };
    counter!(crate::metrics::COMMANDS, "type" => kind, "outcome" => outcome).increment(1);
    histogram!(crate::metrics::COMMAND_SECONDS).record(duration);
    let id = task.key.map(|key| tracing::field::display(key.message_id));
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match &settled.outcome {
        Outcome::Dead { reason, .. } => tracing::warn!(
            message.r#type = kind,
            message.id = id,
            outcome,
            code,
            attempt,
            duration_ms,
            reason = reason.as_str(),
            "a command became a dead letter"
        ),
        Outcome::Kept { .. } => tracing::warn!(
            message.r#type = kind,
            message.id = id,
            outcome,
            attempt,
            duration_ms,
            "a command failed and will be tried again"
        ),
        // At full rate a line per success would cost more than the success.
        _ => tracing::debug!(
            message.r#type = kind,
            message.id = id,
            outcome,
            code,
            attempt,
            duration_ms,
            "command"
        ),
    }
}
