//! One batch of commands in one transaction, and what to do when that fails.

use uuid::Uuid;

use super::decide::{World, decide, error_body, keep};
use super::error::{Code, Failure, FailureKind, Refusal};
use super::kept::{KeptReason, Ladder, Verdict};
use super::ports::{Changes, Locks, Patience, Services, Store, Transaction};
use super::task::{Outcome, Task, Work};
use super::workspace::{Needs, Workspace};
use crate::failpoint;

/// How often a transaction is run again for what passes by itself.
const TRIES: u32 = 3;

/// How often a message waits, for about 2 s in all, while a kept one with its id is being run.
const WAIT_FOR_RUN: u32 = 10;

/// Runs batches against a [`Store`].
#[derive(Debug)]
pub struct Runner<S, P> {
    pub store: S,
    pub services: Services,
    pub patience: P,
    pub ladder: Ladder,
    /// `ROSTER_DEDUPE_DAYS`
    pub dedupe_days: u32,
    pub fresh_id: fn() -> Uuid,
}

impl<S: Store, P: Patience> Runner<S, P> {
    /// Settles every task: in one transaction if that works, else one by one. The outcomes stand in the tasks'
    /// order, and are true of the database when this returns.
    ///
    /// # Errors
    /// [`FailureKind::Away`]: the store is not there. Nothing more is known of these tasks than that none was
    /// burnt; they can be run again when it is back.
    pub async fn run(&self, tasks: &[Task]) -> Result<Vec<Outcome>, Failure> {
        match self.together(tasks).await {
            Ok(outcomes) => Ok(outcomes),
            Err(failure) if failure.kind == FailureKind::Away => Err(failure),
            Err(failure) => match tasks {
                [task] => Ok(vec![self.give_up(task, &failure).await?]),
                _ => {
                    let mut outcomes = Vec::with_capacity(tasks.len());
                    for task in tasks {
                        let task = std::slice::from_ref(task);
                        match self.together(task).await {
                            Ok(settled) => outcomes.extend(settled),
                            Err(failure) if failure.kind == FailureKind::Away => return Err(failure),
                            Err(failure) => {
                                for task in task {
                                    outcomes.push(self.give_up(task, &failure).await?);
                                }
                            }
                        }
                    }
                    Ok(outcomes)
                }
            },
        }
    }

    /// All in one transaction, again for what is likely to pass.
    async fn together(&self, tasks: &[Task]) -> Result<Vec<Outcome>, Failure> {
        // Most messages are new, and few users are changed elsewhere at the same time. So nothing is locked and the
        // inbox is not asked, unless a message may not be new: what happened meanwhile shows as a conflict when the
        // batch is written.
        let mut careful = tasks.iter().any(|task| task.suspect);
        let mut tried = 0;
        loop {
            let failure = match self.once(tasks, careful).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(failure) => failure,
            };
            tried += 1;
            let again = match failure.kind {
                FailureKind::Transient => tried <= TRIES,
                FailureKind::Conflict => tried <= if tasks.len() == 1 { TRIES } else { 1 },
                FailureKind::Away | FailureKind::Permanent => false,
            };
            if !again {
                return Err(failure);
            }
            careful = true;
            if failure.kind == FailureKind::Transient {
                self.patience.pause(tried).await;
            }
        }
    }

    async fn once(&self, tasks: &[Task], careful: bool) -> Result<Vec<Outcome>, Failure> {
        let world = self.world();
        let careful = careful || tasks.iter().any(|task| world.too_late(task).is_some());
        let locks = if careful { Locks::Held } else { Locks::Optimistic };
        let mut transaction = self.store.begin(locks).await?;
        match self.decided(&mut transaction, tasks, careful, &world).await {
            Ok((outcomes, changes)) if changes.is_empty() => {
                transaction.rollback().await;
                Ok(outcomes)
            }
            // Whoever failed may have been answered before, and only the inbox would tell.
            Ok((_, changes)) if !careful && !changes.kept.is_empty() => {
                transaction.rollback().await;
                Err(Failure::new(FailureKind::Conflict, "a command failed before the inbox was asked"))
            }
            Ok((outcomes, changes)) => {
                transaction.commit(changes).await?;
                failpoint::hit("after_commit");
                Ok(outcomes)
            }
            Err(failure) => {
                transaction.rollback().await;
                Err(failure)
            }
        }
    }

    /// The outcomes, and what is to be written.
    async fn decided(
        &self,
        transaction: &mut S::Transaction,
        tasks: &[Task],
        careful: bool,
        world: &World<'_>,
    ) -> Result<(Vec<Outcome>, Changes), Failure> {
        failpoint::hit("in_transaction");
        let mut needs = Needs::default();
        for task in tasks {
            if let Work::Run(command) = &task.work {
                needs.extend(command.needs());
            }
        }
        let work = if needs.is_empty() { Workspace::default() } else { transaction.load(&needs).await? };
        let seen = if careful {
            let keys: Vec<_> = tasks.iter().filter_map(|task| task.key).collect();
            transaction.seen(&keys).await?
        } else {
            Vec::new()
        };
        let (outcomes, mut changes) = decide(tasks, work, seen, world)?;
        changes.unasked = !careful;
        Ok((outcomes, changes))
    }

    /// Keeps a command that failed alone: to be tried again, or as a dead letter after its last try.
    ///
    /// # Errors
    /// [`FailureKind::Away`]: it could not be kept.
    pub async fn give_up(&self, task: &Task, failure: &Failure) -> Result<Outcome, Failure> {
        let attempts = task.kept.as_ref().map_or(0, |kept| kept.attempts) + 1;
        let verdict = self.ladder.verdict(attempts, self.patience.jitter());
        let refusal = Refusal::internal();
        let outcome = match &verdict {
            Verdict::Retry { .. } => Outcome::Kept { attempts },
            Verdict::Dead | Verdict::Untold { .. } => Outcome::Dead {
                body: error_body(&refusal),
                code: Code::InternalError,
                reason: KeptReason::Failed,
            },
        };
        let mut kept = keep(task, KeptReason::Failed, &failure.what, verdict, &self.world())?;
        kept.attempts = attempts;
        let mut tried = 0;
        loop {
            match self.write(Changes { kept: vec![kept.clone()], ..Changes::default() }).await {
                Ok(()) => {
                    failpoint::hit("after_keeping");
                    return Ok(outcome);
                }
                // Another message with its id, or another delivery of it, was kept before: what becomes of this one
                // depends on that.
                Err(failure) if failure.kind == FailureKind::Conflict => {
                    match self.once(std::slice::from_ref(task), true).await {
                        Ok(mut outcomes) if outcomes.len() == 1 => return Ok(outcomes.remove(0)),
                        Err(failure) if failure.kind == FailureKind::Away => return Err(failure),
                        // The one that was kept is being run just now: soon there is an answer.
                        Err(failure) if failure.kind == FailureKind::Transient && tried < WAIT_FOR_RUN => {
                            tried += 1;
                            self.patience.pause(tried).await;
                        }
                        // Kept beside it.
                        _ => kept.key = None,
                    }
                }
                Err(failure) if failure.kind != FailureKind::Away && tried < TRIES => {
                    tried += 1;
                    self.patience.pause(tried).await;
                }
                // What cannot be kept cannot be acknowledged: as good as no store.
                Err(failure) => return Err(Failure::new(FailureKind::Away, failure.what)),
            }
        }
    }

    async fn write(&self, changes: Changes) -> Result<(), Failure> {
        self.store.begin(Locks::Held).await?.commit(changes).await
    }

    fn world(&self) -> World<'_> {
        World {
            now: self.services.clock.now(),
            dedupe_days: self.dedupe_days,
            vault: &*self.services.vault,
            fresh_id: self.fresh_id,
        }
    }
}

/// Prepares a task's command, as often as it takes to know that it failed.
///
/// # Errors
/// A [`Failure`] of a port.
pub async fn prepare(task: &mut Task, services: &Services) -> Result<(), Failure> {
    match &mut task.work {
        Work::Run(command) => command.prepare(&task.actor, services).await,
        Work::Refuse(..) | Work::Park(..) => Ok(()),
    }
}
