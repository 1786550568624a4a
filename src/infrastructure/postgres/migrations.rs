//! The schema's versions: applied at start-up and by `roster migrate`.

use std::time::Duration;

use sqlx::Connection;
use sqlx::migrate::{Migrate, MigrateError, MigrationType, Migrator};
use sqlx::postgres::PgConnection;

use crate::application::error::{Failure, FailureKind};

use super::connections::Connections;
use super::errors;
use super::loan::answered;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
const TABLE: &str = "_sqlx_migrations";
/// Between two tries to reach the server.
const PAUSE: Duration = Duration::from_secs(1);

/// A version of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub number: i64,
    pub name: String,
    pub applied: bool,
}

/// Applies what is missing. Processes that start together wait for each other; versions that only a newer
/// process knows are left alone, so that an older one still runs beside it.
///
/// # Errors
/// A [`Failure`] that names the version.
pub async fn up(connections: &Connections) -> Result<(), Failure> {
    let mut session = session(connections).await?;
    let applied = migrator().run_direct(None, &mut session, false).await.map_err(|error| failure(&error));
    close(session).await;
    applied
}

/// As [`up`], but waits for a server that is not there yet.
///
/// # Errors
/// A [`Failure`] that waiting does not mend.
pub async fn up_when_there(connections: &Connections) -> Result<(), Failure> {
    loop {
        match up(connections).await {
            Err(failure) if failure.kind != FailureKind::Permanent => {
                tracing::warn!(error = %failure, "waiting for Postgres");
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Takes back the last `steps` versions, or as many as there are; says how many.
///
/// # Errors
/// A [`Failure`] that names the version. Nothing is taken back from beneath a version that only a newer process knows.
pub async fn down(connections: &Connections, steps: usize) -> Result<usize, Failure> {
    let mut session = session(connections).await?;
    let undone = undo(&mut session, steps).await;
    close(session).await;
    undone
}

async fn undo(session: &mut PgConnection, steps: usize) -> Result<usize, Failure> {
    let mut applied = applied(session).await?;
    applied.sort_unstable();
    if let Some(unknown) = applied.iter().find(|number| !MIGRATIONS.version_exists(**number)) {
        return Err(errors::permanent(&format!(
            "version {unknown} is a newer Roster's, which has to take it back first"
        )));
    }
    let left = applied.len().saturating_sub(steps);
    let target = left.checked_sub(1).and_then(|last| applied.get(last)).copied().unwrap_or(0);
    migrator().undo(session, target).await.map_err(|error| failure(&error))?;
    Ok(applied.len() - left)
}

async fn applied(session: &mut PgConnection) -> Result<Vec<i64>, Failure> {
    session.ensure_migrations_table(TABLE).await.map_err(|error| failure(&error))?;
    let applied = session.list_applied_migrations(TABLE).await.map_err(|error| failure(&error))?;
    Ok(applied.into_iter().map(|row| row.version).collect())
}

/// Every version that this process knows, in order.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn status(connections: &Connections) -> Result<Vec<Version>, Failure> {
    let mut session = session(connections).await?;
    let applied = applied(&mut session).await?;
    close(session).await;
    let known = MIGRATIONS.iter().filter(|known| known.migration_type != MigrationType::ReversibleDown);
    Ok(known
        .map(|known| Version {
            number: known.version,
            name: known.description.to_string(),
            applied: applied.contains(&known.version),
        })
        .collect())
}

/// Indexes on large tables take longer than a command may; another process's migration too.
async fn session(connections: &Connections) -> Result<PgConnection, Failure> {
    let mut session = connections.session(Duration::ZERO).await?;
    let patient = sqlx::raw_sql("set statement_timeout = 0; set lock_timeout = 0");
    answered(sqlx::Executor::execute(&mut session, patient)).await?;
    Ok(session)
}

async fn close(session: PgConnection) {
    // The server finds out by itself otherwise.
    let _ = session.close().await;
}

fn migrator() -> Migrator {
    let mut migrator = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
    migrator.set_ignore_missing(true);
    migrator
}

fn failure(error: &MigrateError) -> Failure {
    match error {
        MigrateError::Execute(error) => errors::failure(error),
        MigrateError::ExecuteMigration(error, version) => {
            let failure = errors::failure(error);
            Failure::new(failure.kind, format!("migration {version}: {}", failure.what))
        }
        MigrateError::VersionMismatch(version) => {
            errors::permanent(&format!("migration {version} is not the one that was applied"))
        }
        MigrateError::Dirty(version) => {
            errors::permanent(&format!("migration {version} was applied in part"))
        }
        _ => errors::permanent("the migrations do not fit the database"),
    }
}
