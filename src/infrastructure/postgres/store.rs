//! The store of the commands: what they touch is read in one round trip, and what they change written in another.

use std::sync::Arc;

use sqlx::postgres::PgPool;

use crate::application::error::{Failure, FailureKind};
use crate::application::message::MessageKey;
use crate::application::ports::{Changes, Locks, NewEvent, Seen, Store, Transaction};
use crate::application::workspace::{Needs, Workspace};
use crate::failpoint;

use super::connections::Connections;
use super::directory::Directory;
use super::flush::{self, Flushed};
use super::handover::Handover;
use super::loan::Loan;
use super::partitions::{self, Retention};
use super::shelf::Shelf;
use super::{failed_commands, seen, users};

/// Where commands are carried out.
#[derive(Debug, Clone)]
pub struct PgStore {
    pool: PgPool,
    shelf: Arc<Shelf>,
    handover: Arc<Handover>,
    directory: Arc<Directory>,
    retention: Retention,
}

impl PgStore {
    /// Needs a tokio runtime.
    #[must_use]
    pub fn new(connections: &Connections, handover: Arc<Handover>, retention: Retention) -> Self {
        Self {
            pool: connections.commands.clone(),
            shelf: Arc::clone(&connections.shelf),
            handover,
            directory: Arc::new(Directory::new(&connections.shelf)),
            retention,
        }
    }
}

impl Store for PgStore {
    type Transaction = PgTransaction;

    async fn begin(&self, locks: Locks) -> Result<PgTransaction, Failure> {
        let loan = match locks {
            Locks::Optimistic => Loan::take(&self.shelf).await?,
            Locks::Held => Loan::begin(&self.shelf).await?,
        };
        Ok(PgTransaction { loan, store: self.clone(), locks })
    }
}

/// One batch's transaction. An optimistic one begins, if at all, only when it is written.
#[derive(Debug)]
pub struct PgTransaction {
    loan: Loan,
    store: PgStore,
    locks: Locks,
}

impl Transaction for PgTransaction {
    async fn load(&mut self, needs: &Needs) -> Result<Workspace, Failure> {
        if self.locks == Locks::Held {
            return users::load(&mut self.loan, needs).await;
        }
        loop {
            match users::read(&mut self.loan, needs).await {
                Err(failure) if self.loan.was_stale(&failure) => {
                    self.loan = Loan::take(&self.store.shelf).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn seen(&mut self, keys: &[MessageKey]) -> Result<Vec<Seen>, Failure> {
        seen::seen(&mut self.loan, keys).await
    }

    async fn commit(mut self, mut changes: Changes) -> Result<(), Failure> {
        let events: Arc<[NewEvent]> = std::mem::take(&mut changes.events).into();
        let handover = Arc::clone(&self.store.handover);
        // Before the commit, so that the relay finds the events as soon as it sees the batch.
        handover.remember(&events);
        let written = match self.write(&changes, &events).await {
            Ok(()) => self.loan.commit().await,
            Err(failure) => {
                self.loan.rollback().await;
                Err(failure)
            }
        };
        match written {
            Ok(()) if events.is_empty() => {}
            Ok(()) => {
                handover.committed();
                self.store.directory.has_changed();
            }
            // It may have been committed: then the relay reads the events back.
            Err(_) => handover.forget(events.first().map(|event| event.id)),
        }
        written
    }

    async fn rollback(self) {
        self.loan.rollback().await;
    }
}

impl PgTransaction {
    /// One statement where that is all, which then commits by itself.
    async fn write(&mut self, changes: &Changes, events: &[NewEvent]) -> Result<(), Failure> {
        let kept = !(changes.kept.is_empty() && changes.joined.is_empty() && changes.released.is_empty());
        if kept && self.locks == Locks::Optimistic {
            self.loan.begin_here().await?;
        }
        if !self.loan.in_transaction() {
            failpoint::hit("before_commit");
        }
        match flush::write(&mut self.loan, changes, events).await? {
            Flushed::Written => {}
            Flushed::MissingPartition(failure) => return Err(self.add_partitions(failure, changes).await),
        }
        failed_commands::keep(&mut self.loan, &changes.kept).await?;
        failed_commands::join(&mut self.loan, &changes.joined).await?;
        failed_commands::release(&mut self.loan, &changes.released).await?;
        if self.loan.in_transaction() {
            failpoint::hit("before_commit");
        }
        Ok(())
    }

    /// The housekeeper makes partitions ahead of time; this is for a process that did not, or a clock that jumped.
    async fn add_partitions(&self, failure: Failure, changes: &Changes) -> Failure {
        let days: Vec<_> = changes.answers.iter().map(|answer| answer.key.issued_on).collect();
        match partitions::add(&self.store.pool, &days, self.store.retention).await {
            Ok(()) => Failure::new(FailureKind::Transient, failure.what),
            Err(failure) => failure,
        }
    }
}
