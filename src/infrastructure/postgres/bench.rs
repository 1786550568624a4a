//! What `roster bench` needs of Postgres: a database of its own, filled in bulk, and the bare cost of a commit.

use std::time::Duration;

use chrono::Utc;
use secrecy::{ExposeSecret, SecretString};
use sqlx::AssertSqlSafe;
use sqlx::Executor;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::application::error::Failure;

use super::connections::Connections;
use super::loan::answered;
use super::partitions::{self, Retention};
use super::{directory, errors, migrations};

/// The first user's id; the others count up from it, as the ids of users who sign up one after the other do.
const FIRST_USER: u128 = 0x0190_0000_0000_7000_8000_0000_0000_0000;
const RETENTION: Retention = Retention { dedupe_days: 7, event_days: 90, dead_days: 30 };

/// The id of the n-th user of the bench.
#[must_use]
pub fn user_id(n: u64) -> Uuid {
    Uuid::from_u128(FIRST_USER + u128::from(n))
}

/// A database of the bench's own. Dropped only by [`drop`](Self::drop).
#[derive(Debug)]
pub struct BenchDatabase {
    name: String,
    url: SecretString,
    server: Connections,
    own: Connections,
}

impl BenchDatabase {
    /// Makes it on the server that `url` leads to, and migrates it. `name` is put into SQL as it is.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn create(url: &SecretString, name: &str) -> Result<Self, Failure> {
        let server = Connections::few(&with_database(url, "postgres"))?;
        let own_url = with_database(url, name);
        run(&mut patient(&server).await?, format!("create database {name}")).await?;
        let own = Connections::few(&own_url)?;
        let database = Self { name: name.to_owned(), url: own_url, server, own };
        let ready = async {
            migrations::up(&database.own).await?;
            partitions::ensure(&database.own.commands, Utc::now(), RETENTION).await?;
            let floor = "create table bench_floor (id bigint generated always as identity, at timestamptz)";
            run(&mut patient(&database.own).await?, floor.to_owned()).await
        };
        match ready.await {
            Ok(()) => Ok(database),
            Err(failure) => {
                database.drop().await?;
                Err(failure)
            }
        }
    }

    #[must_use]
    pub const fn url(&self) -> &SecretString {
        &self.url
    }

    /// Adds the users `from..to`, created a second apart.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn add_users(&self, from: u64, to: u64) -> Result<(), Failure> {
        let first = Uuid::from_u128(FIRST_USER).to_string();
        let prefix = first.get(..24).unwrap_or_default();
        let statement = format!(
            "insert into users (id, email, name, role, password_hash, version, created_at, updated_at)
            select ('{prefix}' || lpad(to_hex(n), 12, '0'))::uuid, 'user' || n || '@bench.example.com',
                'Bench User ' || n, 'user',
                '$argon2id$v=19$m=19456,t=2,p=1$YmVuY2hiZW5jaGJlbmNo$dGhpcyBpcyBubyBoYXNoIG9mIGFueXRoaW5nIQ',
                1, now() - n * interval '1 second', now() - n * interval '1 second'
            from generate_series({from}, {to} - 1) as n"
        );
        run(&mut patient(&self.own).await?, statement).await
    }

    /// Adds published events to the log, `count` of them, spread over `users`.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn add_events(&self, count: u64, users: u64) -> Result<(), Failure> {
        let first = Uuid::from_u128(FIRST_USER).to_string();
        let prefix = first.get(..24).unwrap_or_default();
        let statement = format!(
            r#"insert into events
                (batch_id, subject, sequence, id, type, data, occurred_at, causation_id, actor)
            select -1 - n / 256, ('{prefix}' || lpad(to_hex(n % {users}), 12, '0'))::uuid, 2 + n / {users},
                gen_random_uuid(), 'user.renamed.v1', '{{"name":"Bench User"}}', now(), gen_random_uuid(),
                'service:bench'
            from generate_series(0::bigint, {count} - 1) as n"#
        );
        run(&mut patient(&self.own).await?, statement).await
    }

    /// Brings the directory up to date, vacuums, analyses and writes a checkpoint, so that each run begins alike.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn tidy(&self) -> Result<(), Failure> {
        let mut session = patient(&self.own).await?;
        directory::catch_up(&mut session).await?;
        run(&mut session, "vacuum (analyze)".to_owned()).await?;
        // Not everybody may; then checkpoints come when they come.
        drop(run(&mut session, "checkpoint".to_owned()).await);
        Ok(())
    }

    /// A session that commits one row at a time.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn floor(&self) -> Result<Commits, Failure> {
        Ok(Commits(self.own.session(Duration::ZERO).await?))
    }

    /// Begins a transaction that reads and is held open until what is given back is dropped.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn hold_transaction(&self) -> Result<HeldTransaction, Failure> {
        let mut session = patient(&self.own).await?;
        run(
            &mut session,
            "set idle_in_transaction_session_timeout = 0;
            begin isolation level repeatable read;
            select pg_current_xact_id();
            select count(*) from users;"
                .to_owned(),
        )
        .await?;
        Ok(HeldTransaction { _session: session })
    }

    /// Drops it, whoever is connected.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn drop(self) -> Result<(), Failure> {
        self.own.close().await;
        let statement = format!("drop database if exists {} with (force)", self.name);
        run(&mut patient(&self.server).await?, statement).await
    }
}

/// The floor of a command's latency: one row, one commit, one fsync.
#[derive(Debug)]
pub struct Commits(PgConnection);

impl Commits {
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn one(&mut self) -> Result<(), Failure> {
        let query = sqlx::query("insert into bench_floor (at) values (now())");
        answered(query.execute(&mut self.0)).await?;
        Ok(())
    }
}

/// A transaction of somebody who does not end it.
#[derive(Debug)]
pub struct HeldTransaction {
    _session: PgConnection,
}

/// A session that may take its time.
async fn patient(connections: &Connections) -> Result<PgConnection, Failure> {
    let mut session = connections.session(Duration::ZERO).await?;
    run(&mut session, "set statement_timeout = 0; set lock_timeout = 0".to_owned()).await?;
    Ok(session)
}

/// Unbounded in time: filling a large table takes minutes.
async fn run(session: &mut PgConnection, statement: String) -> Result<(), Failure> {
    let result = session.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await;
    result.map(|_| ()).map_err(|error| errors::failure(&error))
}

/// The URL with another database in it.
fn with_database(url: &SecretString, database: &str) -> SecretString {
    let url = url.expose_secret();
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    let authority = rest.split_once('/').map_or(rest, |(authority, _)| authority);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{authority}/{database}{query}").into()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("postgres://u:p@h:1/a", "postgres://u:p@h:1/b")]
    #[case("postgres://h", "postgres://h/b")]
    #[case("postgres://h/a?sslmode=disable", "postgres://h/b?sslmode=disable")]
    fn a_database_is_put_into_a_url(#[case] url: &str, #[case] expected: &str) {
        assert_eq!(with_database(&url.into(), "b").expose_secret(), expected);
    }

    #[test]
    fn users_count_up() {
        assert_eq!(user_id(0x1f).to_string(), "01900000-0000-7000-8000-00000000001f");
    }
}
