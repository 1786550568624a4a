//! Keeps the directory, which lists are read from, close behind the users: in the background, many changes at a
//! time, so that no command pays for it. A list is exact all the same, see [`user_list`](super::user_list).

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::gauge;
use sqlx::postgres::PgConnection;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::application::error::{Failure, FailureKind};

use super::loan::{Loan, answered};
use super::shelf::Shelf;
use crate::lifecycle::vital;

/// One at a time folds changes in, until its commit.
const FOLDER: i64 = 0x726f_7374_6572_0004;
/// The more at a time, the cheaper each, and a user who changes twice is folded in once. Lists look each of those
/// that wait up by its id.
const GATHER: Duration = Duration::from_millis(2_500);
/// Without being told: for what others left behind, and for writes past the workers.
const ANYWAY: Duration = Duration::from_secs(30);
/// How many users are folded in by one transaction.
const CHUNK: u32 = 500;

/// How many times as long as a step took the next one waits: while few users wait, commands go first. The more there
/// are, the longer lists take, by some 4 µs for each.
const fn pause(waiting: i64) -> u32 {
    match waiting {
        ..50_000 => 9,
        50_000..200_000 => 1,
        _ => 0,
    }
}

#[derive(Debug)]
pub struct Directory {
    changed: Arc<Notify>,
    worker: JoinHandle<()>,
}

impl Directory {
    /// Needs a tokio runtime.
    pub fn new(shelf: &Arc<Shelf>) -> Self {
        let changed = Arc::new(Notify::new());
        Self { worker: tokio::spawn(vital(keep_up(Arc::clone(shelf), Arc::clone(&changed)))), changed }
    }

    /// To be told after a commit that changed users.
    pub fn has_changed(&self) {
        self.changed.notify_one();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

async fn keep_up(shelf: Arc<Shelf>, changed: Arc<Notify>) {
    loop {
        match round(&shelf).await {
            Ok(Round::Done) => {}
            // It may have looked before the last changes came.
            Ok(Round::Busy) => changed.notify_one(),
            Err(failure) if failure.kind == FailureKind::Permanent => {
                tracing::warn!(%failure, "the directory falls behind; it will be tried again");
            }
            Err(failure) => tracing::debug!(%failure, "the directory was not brought up to date"),
        }
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(ANYWAY) => {}
        }
    }
}

enum Round {
    Done,
    /// Another process is at it.
    Busy,
}

/// Folds in what there is.
async fn round(shelf: &Arc<Shelf>) -> Result<Round, Failure> {
    let (mut folded, mut end) = (false, Round::Done);
    loop {
        let begun = Instant::now();
        let Some(users) = step(shelf).await? else {
            end = Round::Busy;
            break;
        };
        let took = begun.elapsed();
        folded |= users > 0;
        // Not those of this step: a few who are written often leave many notes.
        let left = count(shelf).await?;
        if users == 0 || left < i64::from(CHUNK / 2) {
            break;
        }
        tokio::time::sleep(took.saturating_mul(pause(left))).await;
    }
    if folded {
        let mut lent = shelf.lend().await?;
        let tidied = tidy(lent.connection()?).await;
        if let Err(failure) = lent.note(tidied) {
            // Not the tables' owner, perhaps: then the next ones to fold do it, and autovacuum.
            tracing::debug!(%failure, "the search index was not tidied");
        }
    }
    Ok(end)
}

/// How many users wait to be folded in, each as often as it was written.
async fn count(shelf: &Shelf) -> Result<i64, Failure> {
    let mut lent = shelf.lend().await?;
    let waiting = waiting(lent.connection()?).await;
    let waiting = lent.note(waiting)?;
    #[expect(clippy::cast_precision_loss, reason = "a metric")]
    gauge!(crate::metrics::USER_CHANGES).set(waiting as f64);
    Ok(waiting)
}

/// One transaction; `None` where another process is in one.
async fn step(shelf: &Arc<Shelf>) -> Result<Option<u32>, Failure> {
    let mut loan = Loan::begin(shelf).await?;
    let alone = sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock($1) as "alone!""#, FOLDER);
    let alone = answered(alone.fetch_one(loan.connection()?)).await;
    if !loan.note(alone)? {
        loan.rollback().await;
        return Ok(None);
    }
    // A statement of its own: it sees what the one before has folded in, and cannot undo it.
    let folded = fold(loan.connection()?, CHUNK).await;
    let folded = loan.note(folded)?;
    loan.commit().await?;
    Ok(Some(folded))
}

/// Folds the changes of about `chunk` users in, and says of how many. The notes that it takes away and the users
/// that it reads are of one snapshot: who is written meanwhile has a note that stays.
async fn fold(connection: &mut PgConnection, chunk: u32) -> Result<u32, Failure> {
    let query = sqlx::query_scalar!(
        r#"with taken as (
            delete from user_changes where ctid = any(array(
                select ctid from (
                    select ctid, sum(cardinality(user_ids)) over (rows unbounded preceding) as users
                    from (select ctid, user_ids from user_changes limit $1) as first
                ) as counted where users <= $1
            ))
            returning user_ids
        ), changed as (
            select distinct unnest(user_ids) as id from taken
        ), present as materialized (
            select changed.id, email, name, role, version, created_at, updated_at,
                version is not null and deleted_at is null as stands
            from changed
            left join lateral (
                select * from users where id >= changed.id and id <= changed.id order by id desc limit 1
            ) as found on true
        ), gone as (
            delete from user_directory where id = any(array(select id from present where not stands))
        ), folded as (
            insert into user_directory (id, email, name, role, version, created_at, updated_at, search)
            select id, email, name, role, version, created_at, updated_at, user_search(name, email)
            from present where stands order by id
            on conflict (id) do update set email = excluded.email, name = excluded.name, role = excluded.role,
                version = excluded.version, created_at = excluded.created_at, updated_at = excluded.updated_at,
                search = excluded.search
        )
        select count(*) as "users!" from present"#,
        i64::from(chunk)
    );
    let users = answered(query.fetch_one(connection)).await?;
    Ok(u32::try_from(users).unwrap_or(u32::MAX))
}

/// Sorts what waits in the index of searches into it: a search reads through it.
async fn tidy(connection: &mut PgConnection) -> Result<(), Failure> {
    let query = sqlx::query!("select gin_clean_pending_list('user_directory_search')");
    answered(query.fetch_one(connection)).await.map(|_| ())
}

/// Folds everything in, in a session that is closed thereafter: until then no other process does.
pub(super) async fn catch_up(session: &mut PgConnection) -> Result<(), Failure> {
    const MANY: u32 = 20_000;
    let alone = sqlx::query!(r#"select pg_advisory_lock($1)::text as "alone""#, FOLDER);
    answered(alone.fetch_one(&mut *session)).await?;
    while fold(session, MANY).await? > 0 {}
    tidy(session).await
}

async fn waiting(connection: &mut PgConnection) -> Result<i64, Failure> {
    let query = sqlx::query_scalar!(
        r#"select coalesce(sum(cardinality(user_ids)), 0)::bigint as "users!" from user_changes"#
    );
    answered(query.fetch_one(connection)).await
}
