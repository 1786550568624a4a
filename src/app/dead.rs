//! What `roster dead` does.

use uuid::Uuid;

use crate::application::dead_letter::{Fate, Letter, Replay, Selection};
use crate::application::error::Failure;
use crate::application::ports::Vault;
use crate::config::{DatabaseArgs, Secret};
use crate::infrastructure::crypto::SecretVault;
use crate::infrastructure::postgres::{Connections, dead_letters};

/// Those that fit, at most `limit`, and how many fit in all.
///
/// # Errors
/// A [`Failure`] of the database.
pub async fn list(
    database: &DatabaseArgs,
    selection: &Selection,
    limit: u32,
) -> Result<(Vec<Letter>, i64), Failure> {
    dead_letters::list(&open(database)?.queries, selection, limit).await
}

/// A body as it was sent, under the secret it was sealed with.
///
/// # Errors
/// A [`Failure`] of the database, or where the secret is another.
pub async fn body(database: &DatabaseArgs, secret: &Secret, id: Uuid) -> Result<Option<Vec<u8>>, Failure> {
    let vault = SecretVault::new(secret.as_secret())?;
    let sealed = dead_letters::body(&open(database)?.queries, id).await?;
    sealed.map(|sealed| vault.open(&sealed, id.as_bytes())).transpose()
}

/// What becomes of each, or, unless `really`, what would.
///
/// # Errors
/// A [`Failure`] of the database; nothing was changed then.
pub async fn replay(
    database: &DatabaseArgs,
    selection: &Selection,
    replay: Replay,
    really: bool,
) -> Result<Vec<(Letter, Fate)>, Failure> {
    dead_letters::replay(&open(database)?.queries, selection, replay, really, Uuid::now_v7).await
}

/// All that were dropped, or, unless `really`, would be.
///
/// # Errors
/// A [`Failure`] of the database; nothing was changed then.
pub async fn drop(
    database: &DatabaseArgs,
    selection: &Selection,
    really: bool,
) -> Result<Vec<Letter>, Failure> {
    dead_letters::drop(&open(database)?.queries, selection, really).await
}

fn open(database: &DatabaseArgs) -> Result<Connections, Failure> {
    Connections::few(database.database_url.as_secret())
}
