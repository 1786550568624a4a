//! The outbox: who may publish, what there is to publish, and how far that lags behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgListener, PgPool};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::application::error::Failure;
use crate::application::ports::{Backlog, CommittedBatch, NewEvent, Outbox, OutboxLeader};

use super::connections::Connections;
use super::errors;
use super::handover::Handover;
use super::horizon::Horizon;
use super::loan::answered;
use crate::lifecycle::vital;

/// Held by the session of the one relay.
const RELAY: i64 = 0x726f_7374_6572_0001;
const CHANNEL: &str = "roster_outbox";
/// A holder that froze loses the lock after this.
const FROZEN: Duration = Duration::from_secs(10);
/// At most one notification in this time.
const HUSH: Duration = Duration::from_millis(50);

/// The committed batches that are not published yet.
#[derive(Debug)]
pub struct PgOutbox {
    connections: Connections,
    handover: Arc<Handover>,
    notifier: JoinHandle<()>,
}

impl PgOutbox {
    /// Tells other processes' relays of this process's commits, for as long as it lives. Needs a tokio runtime.
    #[must_use]
    pub fn new(connections: &Connections, handover: Arc<Handover>) -> Self {
        let notifier = tokio::spawn(vital(notify(connections.commands.clone(), Arc::clone(&handover))));
        Self { connections: connections.clone(), handover, notifier }
    }
}

impl Drop for PgOutbox {
    fn drop(&mut self) {
        self.notifier.abort();
    }
}

impl Outbox for PgOutbox {
    type Leader = PgLeader;

    async fn lead(&self) -> Result<Option<PgLeader>, Failure> {
        let mut session = self.connections.session(FROZEN).await?;
        let query = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "led!""#, RELAY);
        if !answered(query.fetch_one(&mut session)).await? {
            return Ok(None);
        }
        let mut horizon = Horizon::default();
        horizon.look(&mut session).await?;
        self.handover.leader_came();
        let handover = Arc::clone(&self.handover);
        let listener = tokio::spawn(vital(listen(self.connections.queries.clone(), Arc::clone(&handover))));
        Ok(Some(PgLeader { session, handover, listener, recalled: HashMap::new(), horizon }))
    }

    async fn committed(&self) {
        self.handover.here.notified().await;
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        let query = sqlx::query!(
            r#"select count(*) as "batches!", coalesce(sum(events), 0) as "events!",
                coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as "oldest!",
                coalesce((
                    select extract(epoch from max(now() - xact_start)) from pg_stat_activity
                    where datname = current_database() and pid <> pg_backend_pid()
                ), 0)::float8 as "oldest_transaction!"
            from outbox"#
        );
        let mut lent = self.connections.shelf.lend().await?;
        let row = answered(query.fetch_one(lent.connection()?)).await;
        let row = lent.note(row)?;
        Ok(Backlog {
            batches: row.batches,
            events: row.events,
            oldest: seconds(row.oldest),
            oldest_transaction: seconds(row.oldest_transaction),
        })
    }
}

fn seconds(age: f64) -> Duration {
    Duration::try_from_secs_f64(age).unwrap_or_default()
}

/// Outside the commands' transactions: a notification takes a lock of the whole cluster until it is committed.
async fn notify(pool: PgPool, handover: Arc<Handover>) {
    loop {
        handover.elsewhere.notified().await;
        let query = sqlx::query!("select pg_notify($1, '')", CHANNEL);
        if let Err(failure) = answered(query.execute(&pool)).await {
            // The other relay polls as well.
            tracing::debug!(error = %failure, "the other relay was not told of a batch");
        }
        tokio::time::sleep(HUSH).await;
    }
}

/// Wakes this process's relay for the commits of other processes.
async fn listen(pool: PgPool, handover: Arc<Handover>) {
    loop {
        if let Err(error) = follow(&pool, &handover).await {
            tracing::debug!(error = %errors::failure(&error), "listening for batches is interrupted");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn follow(pool: &PgPool, handover: &Handover) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // `None`: reconnected, and some were missed.
        listener.try_recv().await?;
        handover.here.notify_one();
    }
}

/// The session that holds the lock.
#[derive(Debug)]
pub struct PgLeader {
    session: PgConnection,
    handover: Arc<Handover>,
    listener: JoinHandle<()>,
    /// The first events of the batches that are to be forgotten once they are done.
    recalled: HashMap<i64, Uuid>,
    horizon: Horizon,
}

impl Drop for PgLeader {
    fn drop(&mut self) {
        self.listener.abort();
        self.handover.leader_went();
    }
}

impl OutboxLeader for PgLeader {
    async fn pending(
        &mut self,
        after: i64,
        limit: u32,
        mut wanted: impl FnMut(i64, usize) -> bool + Send,
    ) -> Result<Vec<CommittedBatch>, Failure> {
        let query = sqlx::query!(
            "select batch_id, created_at, events, first_event from outbox where batch_id > $1
            order by batch_id limit $2",
            after,
            i64::from(limit)
        );
        let mut rows = answered(query.fetch_all(&mut self.session)).await?;
        rows.retain(|row| wanted(row.batch_id, usize::try_from(row.events).unwrap_or(0)));
        let mut known = Vec::with_capacity(rows.len());
        for row in &rows {
            let events = row.first_event.and_then(|event| self.handover.recall(event));
            if let (Some(event), Some(_)) = (row.first_event, &events) {
                self.recalled.insert(row.batch_id, event);
            }
            known.push((row.batch_id, events));
        }
        let unknown: Vec<i64> =
            known.iter().filter(|(_, events)| events.is_none()).map(|(batch, _)| *batch).collect();
        let oldest =
            rows.iter().filter(|row| unknown.contains(&row.batch_id)).map(|row| row.created_at).min();
        let mut read = match oldest {
            Some(oldest) => self.read_back(&unknown, oldest.date_naive()).await?,
            None => HashMap::new(),
        };
        let batch = |(id, events): (i64, Option<Arc<[NewEvent]>>)| {
            let events = events.unwrap_or_else(|| read.remove(&id).unwrap_or_default().into());
            CommittedBatch { id, events }
        };
        Ok(known.into_iter().map(batch).collect())
    }

    async fn done(&mut self, batches: &[i64]) -> Result<(), Failure> {
        let query = sqlx::query!("delete from outbox where batch_id = any($1)", batches);
        answered(query.execute(&mut self.session)).await?;
        self.handover.forget(batches.iter().filter_map(|batch| self.recalled.remove(batch)));
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<i64, Failure> {
        self.horizon.look(&mut self.session).await
    }
}

impl PgLeader {
    /// Batches and their events are of the same day, so older partitions need not be looked into.
    async fn read_back(
        &mut self,
        batches: &[i64],
        since: chrono::NaiveDate,
    ) -> Result<HashMap<i64, Vec<NewEvent>>, Failure> {
        let query = sqlx::query!(
            r#"select batch_id, id, subject, sequence, type as kind, data::text as "data!", occurred_at,
                causation_id, correlation_id, actor, traceparent, tracestate
            from events where batch_id = any($1) and recorded_on >= $2 order by position"#,
            batches,
            since
        );
        let rows = answered(query.fetch_all(&mut self.session)).await?;
        let mut read: HashMap<i64, Vec<NewEvent>> = HashMap::with_capacity(batches.len());
        for row in rows {
            read.entry(row.batch_id).or_default().push(NewEvent {
                id: row.id,
                subject: row.subject,
                sequence: row.sequence,
                kind: row.kind.into(),
                data: row.data,
                occurred_at: row.occurred_at,
                causation_id: row.causation_id,
                correlation_id: row.correlation_id,
                actor: row.actor,
                traceparent: row.traceparent,
                tracestate: row.tracestate,
            });
        }
        Ok(read)
    }
}
