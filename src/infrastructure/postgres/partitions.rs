//! The housekeeping of the partitioned tables: partitions ahead of time, and none longer than they are needed.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc, Weekday};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgPool};

use crate::application::error::Failure;

use super::connections::Connections;
use super::errors;
use super::loan::answered;

/// One housekeeper at a time.
const HOUSEKEEPER: i64 = 0x726f_7374_6572_0002;
/// One maker of partitions at a time.
const MAKER: i64 = 0x726f_7374_6572_0003;
/// How many dead letters go in one statement.
const BROOM: i64 = 1000;

/// For how many days what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub dedupe_days: u32,
    pub event_days: u32,
    pub dead_days: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Inbox,
    Events,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Events => "events",
        }
    }

    /// The days of the partition that holds this one. Few partitions for the events, since a subject's may be in
    /// any; small ones for the inbox, where a message's day is known.
    fn span(self, day: NaiveDate) -> (NaiveDate, NaiveDate) {
        let (first, days) = match self {
            Self::Inbox => (day, 1),
            Self::Events => (day.week(Weekday::Mon).checked_first_day().unwrap_or(day), 7),
        };
        (first, first.checked_add_days(Days::new(days)).unwrap_or(NaiveDate::MAX))
    }

    /// `inbox_y2026m11d21`, after its first day.
    fn partition(self, first: NaiveDate) -> String {
        format!("{}_{}", self.name(), first.format("y%Ym%md%d"))
    }

    fn first_day_of(self, partition: &str) -> Option<NaiveDate> {
        let rest = partition.strip_prefix(self.name())?.strip_prefix('_')?;
        NaiveDate::parse_from_str(rest, "y%Ym%md%d").ok()
    }
}

/// Makes the partitions that are or will soon be written to. Safe to run at the same time as any other.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn ensure(pool: &PgPool, now: DateTime<Utc>, retention: Retention) -> Result<(), Failure> {
    let today = now.date_naive();
    let inbox = days(today, u64::from(retention.dedupe_days) + 1, 2);
    // A day back, for the database's clock decides and may be behind.
    let events = days(today, 1, 7);
    make(pool, &[(Table::Inbox, inbox), (Table::Events, events)]).await
}

/// Makes the partitions that a batch missed: those of its messages' days, and the usual ones.
pub(super) async fn add(pool: &PgPool, issued: &[NaiveDate], retention: Retention) -> Result<(), Failure> {
    let today =
        answered(sqlx::query_scalar!(r#"select now() as "now!""#).fetch_one(pool)).await?.date_naive();
    let mut inbox = days(today, u64::from(retention.dedupe_days) + 1, 2);
    inbox.extend(issued);
    make(pool, &[(Table::Inbox, inbox), (Table::Events, days(today, 1, 7))]).await
}

/// Drops what is past its time, in one process at a time; does nothing where another is at it.
///
/// # Errors
/// A [`Failure`] of the store. What was dropped until then stays dropped.
pub async fn sweep(
    connections: &Connections,
    now: DateTime<Utc>,
    retention: Retention,
) -> Result<(), Failure> {
    let mut session = connections.session(Duration::from_secs(60)).await?;
    let alone = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "alone!""#, HOUSEKEEPER);
    if !answered(alone.fetch_one(&mut session)).await? {
        return Ok(());
    }
    let today = now.date_naive();
    // A day more than the window, for the clocks of replicas differ.
    let inbox = before(today, u64::from(retention.dedupe_days) + 1);
    let mut events = before(today, u64::from(retention.event_days));
    if let Some(unpublished) = oldest_unpublished(&mut session).await? {
        events = events.min(unpublished);
    }
    drop_before(&mut session, Table::Inbox, inbox).await?;
    drop_before(&mut session, Table::Events, events).await?;
    forget_dead_letters(&mut session, now - Days::new(u64::from(retention.dead_days))).await
}

fn days(today: NaiveDate, back: u64, ahead: u64) -> BTreeSet<NaiveDate> {
    before(today, back).iter_days().take(usize::try_from(back + ahead + 1).unwrap_or(1)).collect()
}

fn before(today: NaiveDate, days: u64) -> NaiveDate {
    today.checked_sub_days(Days::new(days)).unwrap_or(NaiveDate::MIN)
}

async fn make(pool: &PgPool, wanted: &[(Table, BTreeSet<NaiveDate>)]) -> Result<(), Failure> {
    for (table, days) in wanted {
        let there = partitions(&mut *acquire(pool).await?, *table).await?;
        let mut made = 0;
        let spans: BTreeSet<_> = days.iter().map(|day| table.span(*day)).collect();
        for span in spans.into_iter().filter(|span| !there.iter().any(|partition| partition.first == span.0))
        {
            attach(pool, *table, span).await?;
            made += 1;
        }
        if made > 0 {
            tracing::info!(table = table.name(), made, "partitions made");
        }
    }
    Ok(())
}

async fn acquire(pool: &PgPool) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, Failure> {
    pool.acquire().await.map_err(|error| errors::failure(&error))
}

/// Attaching takes a weaker lock than `create table … partition of`: batches go on meanwhile. One implicit
/// transaction, so there is none to be left open.
async fn attach(pool: &PgPool, table: Table, (first, next): (NaiveDate, NaiveDate)) -> Result<(), Failure> {
    let (parent, name) = (table.name(), table.partition(first));
    let statements = format!(
        "select pg_advisory_xact_lock({MAKER});
        create table {name} (like {parent} including defaults including storage);
        alter table {parent} attach partition {name} for values from ('{first}') to ('{next}');"
    );
    let mut connection = acquire(pool).await?;
    // Names and days only, both made here.
    let query = sqlx::raw_sql(AssertSqlSafe(statements));
    answered(async {
        match sqlx::Executor::execute(&mut *connection, query).await {
            Err(error) if errors::is_there_already(&error) => Ok(()),
            answer => answer.map(|_| ()),
        }
    })
    .await
    .inspect_err(|_| connection.close_on_drop())
}

struct Partition {
    name: String,
    first: NaiveDate,
    /// A detachment was begun and not finished.
    leaving: bool,
}

async fn partitions(connection: &mut PgConnection, table: Table) -> Result<Vec<Partition>, Failure> {
    let query = sqlx::query!(
        r#"select child.relname::text as "name!", i.inhdetachpending as "leaving!"
        from pg_inherits i join pg_class child on child.oid = i.inhrelid
        where i.inhparent = to_regclass($1)::oid order by 1"#,
        table.name()
    );
    let rows = answered(query.fetch_all(connection)).await?;
    let known = rows.into_iter().filter_map(|row| {
        let first = table.first_day_of(&row.name)?;
        Some(Partition { name: row.name, first, leaving: row.leaving })
    });
    Ok(known.collect())
}

/// Detached first, concurrently, so that no batch waits for the drop.
async fn drop_before(session: &mut PgConnection, table: Table, limit: NaiveDate) -> Result<(), Failure> {
    let parent = table.name();
    let past = |first: NaiveDate| table.span(first).1 <= limit;
    for partition in partitions(session, table).await?.into_iter().filter(|partition| past(partition.first)) {
        let name = &partition.name;
        let detach = if partition.leaving { "finalize" } else { "concurrently" };
        run(session, format!("alter table {parent} detach partition {name} {detach}")).await?;
        run(session, format!("drop table {name}")).await?;
        tracing::info!(table = parent, from = %partition.first, "partition dropped");
    }
    // Detached by a housekeeper that never came to drop them.
    for name in strays(session, table).await? {
        if table.first_day_of(&name).is_some_and(past) {
            run(session, format!("drop table {name}")).await?;
        }
    }
    Ok(())
}

async fn strays(session: &mut PgConnection, table: Table) -> Result<Vec<String>, Failure> {
    let query = sqlx::query_scalar!(
        r#"select c.relname::text as "name!" from pg_class c
        where c.relkind = 'r' and not c.relispartition and starts_with(c.relname::text, $1)
            and c.relnamespace = (select relnamespace from pg_class where oid = to_regclass($2)::oid)"#,
        format!("{}_y", table.name()),
        table.name()
    );
    answered(query.fetch_all(session)).await
}

async fn run(session: &mut PgConnection, statement: String) -> Result<(), Failure> {
    let query = sqlx::raw_sql(AssertSqlSafe(statement));
    answered(sqlx::Executor::execute(session, query)).await.map(|_| ())
}

/// The day of the oldest batch in the outbox, which is the day of its events.
async fn oldest_unpublished(session: &mut PgConnection) -> Result<Option<NaiveDate>, Failure> {
    let query = sqlx::query_scalar!("select min(created_at) from outbox");
    Ok(answered(query.fetch_one(session)).await?.map(|time| time.date_naive()))
}

async fn forget_dead_letters(session: &mut PgConnection, before: DateTime<Utc>) -> Result<(), Failure> {
    loop {
        let query = sqlx::query!(
            r#"delete from failed_commands where id in (
                select id from failed_commands where state = 'dead' and updated_at < $1
                order by updated_at limit $2 for update skip locked
            )"#,
            before,
            BROOM
        );
        let gone = answered(query.execute(&mut *session)).await?.rows_affected();
        if gone > 0 {
            tracing::info!(count = gone, "dead letters past their time deleted");
        }
        if i64::try_from(gone).unwrap_or(0) < BROOM {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_after_its_day() {
        let day = NaiveDate::from_ymd_opt(2026, 1, 9).unwrap();
        let name = Table::Events.partition(day);
        assert_eq!(name, "events_y2026m01d09");
        assert_eq!(Table::Events.first_day_of(&name), Some(day));
        assert_eq!(Table::Inbox.first_day_of(&name), None);
        assert_eq!(Table::Events.first_day_of("events_default"), None);
    }

    #[test]
    fn events_are_kept_by_the_week() {
        let day = |day| NaiveDate::from_ymd_opt(2026, 11, day).unwrap();
        assert_eq!(Table::Events.span(day(22)), (day(16), day(23)));
        assert_eq!(Table::Events.span(day(23)), (day(23), day(30)));
        assert_eq!(Table::Inbox.span(day(22)), (day(22), day(23)));
    }

    #[test]
    fn days_reach_back_and_ahead() {
        let today = NaiveDate::from_ymd_opt(2026, 3, 1).unwrap();
        let days: Vec<_> = days(today, 1, 2).into_iter().map(|day| day.to_string()).collect();
        assert_eq!(days, ["2026-02-28", "2026-03-01", "2026-03-02", "2026-03-03"]);
    }
}
