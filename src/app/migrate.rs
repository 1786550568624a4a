//! What `roster migrate` does.

use crate::application::error::Failure;
use crate::config::DatabaseArgs;
use crate::infrastructure::postgres::{Connections, migrations};

/// # Errors
/// A [`Failure`] of the database.
pub async fn up(database: &DatabaseArgs) -> Result<(), Failure> {
    migrations::up(&open(database)?).await
}

/// How many were taken back.
///
/// # Errors
/// A [`Failure`] of the database.
pub async fn down(database: &DatabaseArgs, steps: u32) -> Result<usize, Failure> {
    migrations::down(&open(database)?, usize::try_from(steps).unwrap_or(usize::MAX)).await
}

/// A line for each version.
///
/// # Errors
/// A [`Failure`] of the database.
pub async fn status(database: &DatabaseArgs) -> Result<String, Failure> {
    let versions = migrations::status(&open(database)?).await?;
    let line = |version: migrations::Version| {
        let state = if version.applied { "applied" } else { "missing" };
        format!("{:04} {} ({state})", version.number, version.name)
    };
    Ok(versions.into_iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn open(database: &DatabaseArgs) -> Result<Connections, Failure> {
    Connections::few(database.database_url.as_secret())
}
