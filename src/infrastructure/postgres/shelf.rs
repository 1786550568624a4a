//! Connections that were used just now and will soon be used again.
//!
//! The pool pings every connection that it gets back: a round trip for nothing, and one without a time limit.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{Connection, Postgres};

use crate::application::error::Failure;

use super::errors;

/// A connection that rested longer is pinged before it is used: the server may have gone meanwhile.
pub const FRESH: Duration = Duration::from_secs(1);
/// For the answer to a ping.
pub const PING: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Shelf {
    pool: PgPool,
    resting: Mutex<Vec<(Instant, PoolConnection<Postgres>)>>,
    size: usize,
}

impl Shelf {
    pub const fn new(pool: PgPool, size: usize) -> Self {
        Self { pool, resting: Mutex::new(Vec::new()), size }
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
        if resting.len() < self.size && !self.pool.is_closed() {
            resting.push((Instant::now(), connection));
        }
    }

    /// For the pool to be closed: it waits for its connections.
    pub fn clear(&self) {
        self.resting.lock().clear();
    }
}
