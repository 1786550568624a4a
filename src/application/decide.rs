//! What a batch does to loaded aggregates: pure, command by command, in the order they came.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use uuid::Uuid;

use super::dto::{ErrorReply, describe};
use super::error::{Failure, Reason, Refusal};
use super::judge::grant_of;
use super::kept::{KeptCommand, KeptReason, Verdict, Waiter};
use super::message::{Fingerprint, MessageKey};
use super::ports::{Changes, Known, NewAnswer, NewEvent, Seen, Vault};
use super::registry::{Context, Decline, ErasedCommand};
use super::task::{Outcome, Task, Work};
use super::workspace::Workspace;
use crate::failpoint;

/// When those who wait for a dead letter are told again, where nobody knows whether they were.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What the batch may know of the world.
pub(super) struct World<'a> {
    pub now: DateTime<Utc>,
    pub dedupe_days: u32,
    pub vault: &'a dyn Vault,
    pub fresh_id: fn() -> Uuid,
}

impl World<'_> {
    /// Messages issued earlier than this are outside the dedupe window.
    fn window_start(&self) -> NaiveDate {
        let today = self.now.date_naive();
        today.checked_sub_days(Days::new(self.dedupe_days.into())).unwrap_or(NaiveDate::MIN)
    }

    pub fn too_late(&self, task: &Task) -> Option<Reason> {
        if task.key.is_some_and(|key| key.issued_on < self.window_start()) {
            Some(Reason::OutsideDedupeWindow)
        } else if task.deadline.is_some_and(|deadline| deadline <= self.now) {
            Some(Reason::DeadlinePassed)
        } else {
            None
        }
    }
}

/// Decides every task of a batch: what becomes of each, and what is to be written.
///
/// # Errors
/// A [`Failure`] of the vault; nothing was decided then.
pub(super) fn decide(
    tasks: &[Task],
    mut work: Workspace,
    seen: Vec<Seen>,
    world: &World<'_>,
) -> Result<(Vec<Outcome>, Changes), Failure> {
    let mut decided = Decided {
        world,
        handled: seen.into_iter().map(|seen| (seen.key, Handled::from(seen))).collect(),
        changes: Changes::default(),
    };
    let mut outcomes = Vec::with_capacity(tasks.len());
    for task in tasks {
        outcomes.push(decided.task(task, &mut work)?);
    }
    let Decided { mut changes, .. } = decided;
    (changes.created, changes.updated) = work.into_changes();
    Ok((outcomes, changes))
}

struct Decided<'a> {
    world: &'a World<'a>,
    /// By an earlier transaction, or by an earlier task of this batch.
    handled: HashMap<MessageKey, Handled>,
    changes: Changes,
}

struct Handled {
    message_type: String,
    actor: String,
    fingerprint: Fingerprint,
    known: Known,
}

impl From<Seen> for Handled {
    fn from(seen: Seen) -> Self {
        let Seen { message_type, actor, fingerprint, known, .. } = seen;
        Self { message_type, actor, fingerprint, known }
    }
}

impl Handled {
    fn is(&self, task: &Task) -> bool {
        self.fingerprint == task.fingerprint
            && self.message_type == task.message_type
            && self.actor == task.actor.to_string()
    }
}

/// Whether a refusal is an answer to be repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Yes,
    No,
}

impl Decided<'_> {
    fn task(&mut self, task: &Task, work: &mut Workspace) -> Result<Outcome, Failure> {
        match (self.standing(task), &task.work) {
            (Standing::Answered(body), _) => {
                self.release(task);
                return Ok(Outcome::Answered { code: code_of(&body), body, replayed: true });
            }
            (Standing::Waiting(row), _) => {
                self.changes.joined.extend(waiter(task).map(|waiter| (row, waiter)));
                return Ok(Outcome::Waits);
            }
            (Standing::Dead(reason), _) => {
                let refusal = reason.last_word();
                return Ok(Outcome::AlreadyDead { body: error_body(&refusal), code: refusal.code });
            }
            (Standing::Taken, Work::Run(_)) => {
                let refusal = Refusal::message_id_reused();
                return self.refuse(task, &refusal, KeptReason::MessageIdReused, Store::No);
            }
            (Standing::Taken, Work::Refuse(..) | Work::Park(..)) | (Standing::New, _) => {}
        }
        match &task.work {
            Work::Refuse(refusal, reason) => self.refuse(task, refusal, *reason, Store::No),
            Work::Park(reason, error) => self.bury(task, *reason, &reason.last_word(), error),
            Work::Run(command) => match self.world.too_late(task) {
                Some(reason) => self.refuse(task, &Refusal::expired(reason), KeptReason::Expired, Store::No),
                None => self.run(task, &**command, work),
            },
        }
    }

    fn standing(&self, task: &Task) -> Standing {
        if let Some(reason) = task.kept.as_ref().and_then(|kept| kept.dead) {
            return Standing::Dead(reason);
        }
        let Some(handled) = task.key.and_then(|key| self.handled.get(&key)) else { return Standing::New };
        match &handled.known {
            Known::Dead(reason) if !handled.is(task) && reason.is_refusal() => Standing::New,
            _ if !handled.is(task) => Standing::Taken,
            Known::Answer(answer) => Standing::Answered(Arc::clone(answer)),
            // Its own row, or a replay's.
            Known::Waiting(_) | Known::Dead(_) if task.kept.is_some() => Standing::New,
            Known::Waiting(row) => Standing::Waiting(*row),
            // Its caller may have it judged anew, the broker may not.
            Known::Dead(reason) if task.redelivered => Standing::Dead(*reason),
            Known::Dead(_) => Standing::New,
        }
    }

    fn run(
        &mut self,
        task: &Task,
        command: &dyn ErasedCommand,
        work: &mut Workspace,
    ) -> Result<Outcome, Failure> {
        let context = Context { now: self.world.now, actor: &task.actor, fresh_id: (self.world.fresh_id)() };
        let result = catch_unwind(AssertUnwindSafe(|| {
            failpoint::message(task.original.properties.message_id.as_deref());
            command.execute(&context, work)
        }));
        match result {
            Ok(Ok(body)) => {
                self.record(task, work);
                self.answer(task, &body);
                Ok(Outcome::Answered { body, code: None, replayed: false })
            }
            Ok(Err(Decline::Refused(refusal))) => {
                work.discard();
                self.refuse(task, &refusal, KeptReason::Refused, Store::Yes)
            }
            Ok(Err(Decline::Stale)) => {
                work.discard();
                Ok(Outcome::Stale)
            }
            Err(_) => {
                work.discard();
                self.bury(task, KeptReason::Panicked, &Refusal::internal(), "the handler panicked")
            }
        }
    }

    fn record(&mut self, task: &Task, work: &mut Workspace) {
        let Some(key) = task.key else { return };
        for (subject, sequence, event) in work.merge() {
            let (kind, data) = describe(&event);
            self.changes.events.push(NewEvent {
                id: (self.world.fresh_id)(),
                subject: subject.uuid(),
                sequence,
                kind: kind.into(),
                data: data.to_string(),
                occurred_at: self.world.now,
                causation_id: key.message_id,
                correlation_id: task.correlation_id.as_deref().and_then(attribute),
                actor: task.actor.to_string(),
                traceparent: task.trace.parent.clone(),
                tracestate: task.trace.state.clone(),
            });
        }
    }

    /// Stores an answer, and lets go of the row that was kept of an earlier try.
    fn answer(&mut self, task: &Task, body: &Arc<str>) {
        self.release(task);
        let Some(key) = task.key else { return };
        let (message_type, actor, answer) =
            (task.message_type.clone(), task.actor.to_string(), Arc::clone(body));
        let handled = Handled {
            message_type: message_type.clone(),
            actor: actor.clone(),
            fingerprint: task.fingerprint,
            known: Known::Answer(Arc::clone(body)),
        };
        self.handled.insert(key, handled);
        if failpoint::bug("answer_not_stored") {
            return;
        }
        self.changes.answers.push(NewAnswer {
            key,
            message_type,
            actor,
            fingerprint: task.fingerprint,
            answer,
        });
    }

    /// Lets go of the row that was kept of an earlier try. Where somebody waits for the answer, the row outlives
    /// it: a process that dies in between finds the row again, and then the stored answer.
    fn release(&mut self, task: &Task) {
        if task.reply_to.is_none() && task.kept.as_ref().is_none_or(|kept| kept.waiters.is_empty()) {
            self.changes.released.extend(task.kept.as_ref().map(|kept| kept.id));
        }
    }

    /// Answers with a refusal; where nobody is to be told, the dead letter is the record.
    fn refuse(
        &mut self,
        task: &Task,
        refusal: &Refusal,
        reason: KeptReason,
        store: Store,
    ) -> Result<Outcome, Failure> {
        if task.reply_to.is_none() {
            return self.bury(task, reason, refusal, refusal.code.as_str());
        }
        let body = error_body(refusal);
        match store {
            Store::Yes => self.answer(task, &body),
            Store::No => self.release(task),
        }
        Ok(Outcome::Answered { body, code: Some(refusal.code), replayed: false })
    }

    fn bury(
        &mut self,
        task: &Task,
        reason: KeptReason,
        refusal: &Refusal,
        error: &str,
    ) -> Result<Outcome, Failure> {
        let mut kept = keep(task, reason, error, Verdict::Dead, self.world)?;
        if let Some(key) = kept.key {
            match self.handled.get(&key) {
                // The id stays the first message's.
                Some(handled) if !handled.is(task) => kept.key = None,
                _ => {
                    let handled = Handled {
                        message_type: task.message_type.clone(),
                        actor: kept.actor.clone(),
                        fingerprint: task.fingerprint,
                        known: Known::Dead(reason),
                    };
                    self.handled.insert(key, handled);
                }
            }
        }
        self.changes.kept.push(kept);
        Ok(Outcome::Dead { body: error_body(refusal), code: refusal.code, reason })
    }
}

/// What is known of a task's message.
enum Standing {
    /// Nothing that keeps it from being judged.
    New,
    Answered(Arc<str>),
    /// Kept, in this row, to be tried again.
    Waiting(Uuid),
    Dead(KeptReason),
    /// Its id is another message's.
    Taken,
}

/// Who waits for a task, as text that the store can take.
fn waiter(task: &Task) -> Option<Waiter> {
    let storable = |text: &String| !text.contains('\0');
    Some(Waiter {
        reply_to: task.reply_to.clone().filter(storable)?,
        correlation_id: task.answers_to().filter(storable),
        traceparent: task.trace.parent.clone(),
        tracestate: task.trace.state.clone(),
    })
}

/// A task as `failed_commands` keeps it, after one more try.
pub(super) fn keep(
    task: &Task,
    reason: KeptReason,
    error: &str,
    verdict: Verdict,
    world: &World<'_>,
) -> Result<KeptCommand, Failure> {
    let id = task.kept.as_ref().map_or_else(world.fresh_id, |kept| kept.id);
    let ran = matches!(task.work, Work::Run(_));
    let again = task.kept.is_some();
    let waited_for =
        task.reply_to.is_some() || task.kept.as_ref().is_some_and(|kept| !kept.waiters.is_empty());
    // A delivery that is not acknowledged comes again and tells its caller; a kept command has nothing but its row.
    let verdict = match verdict {
        Verdict::Dead if again && waited_for => Verdict::Untold { after: TELL_AGAIN },
        verdict => verdict,
    };
    let sealed_body =
        if again { Vec::new() } else { world.vault.seal(&task.original.body, id.as_bytes())? };
    Ok(KeptCommand {
        id,
        key: task.key,
        aggregate: task.aggregate.clone(),
        again,
        actor: task.actor.to_string(),
        grant: grant_of(&task.actor),
        properties: task.original.properties.clone(),
        sealed_body,
        fingerprint: task.fingerprint,
        reason,
        attempts: task.kept.as_ref().map_or(0, |kept| kept.attempts) + u32::from(ran),
        unended: 0,
        first_error: task.kept.as_ref().map_or_else(|| error.to_owned(), |kept| kept.first_error.clone()),
        last_error: error.to_owned(),
        verdict,
        waiters: Vec::new(),
    })
}

/// A text as a CloudEvents attribute: without control characters, and absent rather than empty.
fn attribute(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|character| !character.is_control()).collect();
    Some(text).filter(|text| !text.is_empty())
}

/// A refusal as the reply's body.
#[must_use]
pub fn error_body(refusal: &Refusal) -> Arc<str> {
    let reply = ErrorReply { error: refusal.clone() };
    // A refusal is made of strings and numbers, which always serialise.
    serde_json::to_string(&reply).unwrap_or_default().into()
}

/// The code of a stored answer, where it is a refusal.
fn code_of(body: &str) -> Option<super::error::Code> {
    serde_json::from_str::<ErrorReply>(body).ok().map(|reply| reply.error.code)
}

#[cfg(test)]
mod tests;
