//! Connections that were used just now and will soon be used again.
//!
//! The pool pings every connection that it gets back: a round trip for nothing, and one without a time limit.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Postgres};

use crate::application::error::{Failure, FailureKind};

use super::errors;

/// A connection that rested longer is pinged before it is used: the server may have gone meanwhile.
pub const FRESH: Duration = Duration::from_secs(1);
/// For the answer to a ping.
pub const PING: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Shelf {
    pool: PgPool,
    resting: Mutex<Vec<(Instant, PoolConnection<Postgres>)>>,
    size: u32,
}

impl Shelf {
    /// With room for as many as the pool has: what does not fit would be pinged.
    pub const fn new(pool: PgPool, size: u32) -> Self {
        Self { pool, resting: Mutex::new(Vec::new()), size }
    }

    pub const fn size(&self) -> u32 {
        self.size
    }

    /// A connection, and whether it rested here: then it may turn out to be dead, and another try is worth while.
    pub async fn take(&self) -> Result<(PoolConnection<Postgres>, bool), Failure> {
        while let Some((since, mut connection)) = self.pop() {
            if since.elapsed() < FRESH {
                return Ok((connection, true));
            }
            if matches!(tokio::time::timeout(PING, connection.ping()).await, Ok(Ok(()))) {
                return Ok((connection, true));
            }
            drop(connection.detach());
        }
        let connection = self.pool.acquire().await.map_err(|error| errors::failure(&error))?;
        Ok((connection, false))
    }

    /// The one that rested the shortest.
    fn pop(&self) -> Option<(Instant, PoolConnection<Postgres>)> {
        self.resting.lock().pop()
    }

    /// Only connections that are in no transaction.
    pub fn put(&self, connection: PoolConnection<Postgres>) {
        let mut resting = self.resting.lock();
        if u32::try_from(resting.len()).is_ok_and(|resting| resting < self.size) && !self.pool.is_closed() {
            resting.push((Instant::now(), connection));
        }
    }

    /// A connection for statements outside a transaction.
    ///
    /// # Errors
    /// A [`Failure`] where none becomes free or can be made in time.
    pub async fn lend(&self) -> Result<Lent<'_>, Failure> {
        let (connection, _) = self.take().await?;
        Ok(Lent { shelf: self, connection: Some(connection), sound: true })
    }

    /// For the pool to be closed: it waits for its connections.
    pub fn clear(&self) {
        self.resting.lock().clear();
    }
}

/// A connection that goes back once it has answered. Where it has not, it is closed: the pool would wait for
/// its answer to a ping, without end, and lose the place.
#[derive(Debug)]
pub struct Lent<'a> {
    shelf: &'a Shelf,
    connection: Option<PoolConnection<Postgres>>,
    sound: bool,
}

impl Lent<'_> {
    /// For one statement, whose answer is to be [noted](Self::note).
    pub fn connection(&mut self) -> Result<&mut PgConnection, Failure> {
        self.sound = false;
        match &mut self.connection {
            Some(connection) => Ok(&mut *connection),
            None => Err(errors::permanent("the connection was given back")),
        }
    }

    /// To be told how the statement went.
    pub fn note<T>(&mut self, answer: Result<T, Failure>) -> Result<T, Failure> {
        self.sound = answer.as_ref().err().is_none_or(|failure| failure.kind != FailureKind::Away);
        answer
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(connection) if self.sound => self.shelf.put(connection),
            Some(connection) => drop(connection.detach()),
            None => {}
        }
    }
}
