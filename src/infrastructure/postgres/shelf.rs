//! Connections that were used just now and will soon be used again.
//!
//! The pool pings every connection that it gets back: a round trip for nothing, and one without a time limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::application::error::{Failure, FailureKind};

use super::errors;

/// A connection that rested longer is pinged before it is used: the server may have gone meanwhile.
pub const FRESH: Duration = Duration::from_secs(1);
/// For the answer to a ping.
pub const PING: Duration = Duration::from_secs(1);
/// For a connection to become free.
const FREE_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Shelf {
    pool: PgPool,
    resting: Mutex<Vec<(Instant, PoolConnection<Postgres>)>>,
    /// One for each connection. Whoever waits, waits here and not for the pool, which gets nothing back that could
    /// rest here.
    places: Arc<Semaphore>,
    size: u32,
}

/// A connection that was taken, and the right to have one.
#[derive(Debug)]
pub struct Taken {
    connection: PoolConnection<Postgres>,
    /// It rested here: it may turn out to be dead, and then another try is worth while.
    pub rested: bool,
    _place: OwnedSemaphorePermit,
}

impl Taken {
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Closes the socket without a farewell, which could wait for a server that does not answer.
    pub fn abandon(self) {
        drop(self.connection.detach());
    }
}

impl Shelf {
    /// For so many connections at a time. The pool must have as many, and more if it is used beside the shelf.
    pub fn new(pool: PgPool, size: u32) -> Self {
        let places = Arc::new(Semaphore::new(usize::try_from(size).unwrap_or(usize::MAX)));
        Self { pool, resting: Mutex::new(Vec::new()), places, size }
    }

    pub const fn size(&self) -> u32 {
        self.size
    }

    /// A connection.
    ///
    /// # Errors
    /// A [`Failure`] where none becomes free or can be made in time.
    pub async fn take(&self) -> Result<Taken, Failure> {
        let place = tokio::time::timeout(FREE_WITHIN, Arc::clone(&self.places).acquire_owned()).await;
        // The semaphore is never closed.
        let Ok(Ok(place)) = place else { return Err(errors::failure(&sqlx::Error::PoolTimedOut)) };
        let (connection, rested) = self.connection().await?;
        Ok(Taken { connection, rested, _place: place })
    }

    async fn connection(&self) -> Result<(PoolConnection<Postgres>, bool), Failure> {
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
    pub fn put(&self, taken: Taken) {
        // It rests before its place is free.
        if !self.pool.is_closed() {
            self.resting.lock().push((Instant::now(), taken.connection));
        }
    }

    /// A connection for statements outside a transaction.
    ///
    /// # Errors
    /// A [`Failure`] where none becomes free or can be made in time.
    pub async fn lend(&self) -> Result<Lent<'_>, Failure> {
        Ok(Lent { shelf: self, taken: Some(self.take().await?), sound: true })
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
    taken: Option<Taken>,
    sound: bool,
}

impl Lent<'_> {
    /// For one statement, whose answer is to be [noted](Self::note).
    pub fn connection(&mut self) -> Result<&mut PgConnection, Failure> {
        self.sound = false;
        match &mut self.taken {
            Some(taken) => Ok(taken.connection()),
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
        match self.taken.take() {
            Some(taken) if self.sound => self.shelf.put(taken),
            Some(taken) => taken.abandon(),
            None => {}
        }
    }
}
