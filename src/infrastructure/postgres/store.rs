//! The store of the commands: begin, load, flush, commit, one round trip each.

use std::sync::Arc;

use sqlx::postgres::PgPool;

use crate::application::error::{Failure, FailureKind};
use crate::application::message::MessageKey;
use crate::application::ports::{Changes, NewEvent, Seen, Store, Transaction};
use crate::application::workspace::{Needs, Workspace};

use super::connections::Connections;
use super::flush::{self, Flushed};
use super::handover::Handover;
use super::loan::Loan;
use super::partitions::{self, Retention};
use super::search_index::SearchIndex;
use super::shelf::Shelf;
use super::{failed_commands, seen, users};

/// Where commands are carried out.
#[derive(Debug, Clone)]
pub struct PgStore {
    pool: PgPool,
    shelf: Arc<Shelf>,
    handover: Arc<Handover>,
    search: Arc<SearchIndex>,
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
            search: Arc::new(SearchIndex::new(&connections.commands)),
            retention,
        }
    }
}

impl Store for PgStore {
    type Transaction = PgTransaction;

    async fn begin(&self) -> Result<PgTransaction, Failure> {
        Ok(PgTransaction { loan: Loan::begin(&self.shelf).await?, store: self.clone(), batch: None })
    }
}

/// One batch's transaction.
#[derive(Debug)]
pub struct PgTransaction {
    loan: Loan,
    store: PgStore,
    /// The batch that was flushed, and its events where this process publishes them itself.
    batch: Option<(i64, Vec<NewEvent>)>,
}

impl Transaction for PgTransaction {
    async fn load(&mut self, needs: &Needs) -> Result<Workspace, Failure> {
        users::load(&mut self.loan, needs).await
    }

    async fn seen(&mut self, keys: &[MessageKey]) -> Result<Vec<Seen>, Failure> {
        seen::seen(&mut self.loan, keys).await
    }

    async fn flush(&mut self, changes: &Changes) -> Result<(), Failure> {
        let batch = match flush::write(&mut self.loan, changes).await? {
            Flushed::Written(batch) => batch,
            Flushed::MissingPartition(failure) => return Err(self.add_partitions(failure, changes).await),
        };
        failed_commands::keep(&mut self.loan, &changes.kept).await?;
        failed_commands::join(&mut self.loan, &changes.joined).await?;
        failed_commands::release(&mut self.loan, &changes.released).await?;
        let remembered = if self.store.handover.leads() { changes.events.clone() } else { Vec::new() };
        self.batch = batch.map(|id| (id, remembered));
        Ok(())
    }

    async fn commit(self) -> Result<(), Failure> {
        let Some((id, events)) = self.batch else { return self.loan.commit().await };
        let handover = &self.store.handover;
        // Before the commit, so that the relay finds the events as soon as it sees the batch.
        handover.remember(id, events);
        match self.loan.commit().await {
            Ok(()) => {
                handover.committed();
                self.store.search.has_grown();
                Ok(())
            }
            Err(failure) => {
                // It may have been committed: then the relay reads the events back.
                handover.forget(&[id]);
                Err(failure)
            }
        }
    }

    async fn rollback(self) {
        self.loan.rollback().await;
    }
}

impl PgTransaction {
    /// The housekeeper makes partitions ahead of time; this is for a process that did not, or a clock that jumped.
    async fn add_partitions(&self, failure: Failure, changes: &Changes) -> Failure {
        let days: Vec<_> = changes.answers.iter().map(|answer| answer.key.issued_on).collect();
        match partitions::add(&self.store.pool, &days, self.store.retention).await {
            Ok(()) => Failure::new(FailureKind::Transient, failure.what),
            Err(failure) => failure,
        }
    }
}
