//! A connection on loan, which goes back only when its transaction is over.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{Postgres, SqlSafeStr};

use crate::application::error::{Failure, FailureKind};

use super::errors;
use super::shelf::Shelf;

/// More than the server's own limits, which answer first as long as there is a server.
const PATIENCE: Duration = Duration::from_secs(18);

/// Waits for an answer of the server, within bounds. After a time-out the connection must not be used again.
pub async fn answered<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(errors::failure(&error)),
        Err(_) => Err(errors::overdue()),
    }
}

/// A connection in a transaction. Dropped before the transaction's end, it is closed, and the server rolls back:
/// the pool would otherwise lend it on with the transaction still open.
#[derive(Debug)]
pub struct Loan {
    connection: Option<PoolConnection<Postgres>>,
    shelf: Arc<Shelf>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sound,
    /// A statement failed: the server would take `commit` for `rollback`, and say so to nobody.
    Aborted,
    /// The connection itself is not to be trusted.
    Lost,
}

impl Loan {
    /// Borrows a connection and begins a transaction: one round trip.
    pub async fn begin(shelf: &Arc<Shelf>) -> Result<Self, Failure> {
        loop {
            let (connection, rested) = shelf.take().await?;
            let connection = Some(connection);
            let mut loan = Self { connection, shelf: Arc::clone(shelf), state: State::Sound };
            match loan.run("begin").await {
                Ok(()) => return Ok(loan),
                // The server was restarted meanwhile: nothing is lost yet.
                Err(failure) if rested && failure.kind == FailureKind::Away => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    pub fn connection(&mut self) -> Result<&mut PgConnection, Failure> {
        match &mut self.connection {
            Some(connection) => Ok(&mut *connection),
            None => Err(errors::permanent("the connection was given back")),
        }
    }

    /// To be told how each statement went.
    pub fn note<T>(&mut self, answer: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(failure) = &answer {
            let worst = if failure.kind == FailureKind::Away { State::Lost } else { State::Aborted };
            if self.state != State::Lost {
                self.state = worst;
            }
        }
        answer
    }

    pub async fn commit(mut self) -> Result<(), Failure> {
        if self.state != State::Sound {
            return Err(errors::permanent("nothing is committed after a failed statement"));
        }
        self.run("commit").await?;
        self.give_back();
        Ok(())
    }

    pub async fn rollback(mut self) {
        if self.state != State::Lost && self.run("rollback").await.is_ok() {
            self.give_back();
        }
    }

    async fn run(&mut self, statement: impl SqlSafeStr) -> Result<(), Failure> {
        let answer = answered(sqlx::Executor::execute(self.connection()?, sqlx::raw_sql(statement))).await;
        self.note(answer.map(|_| ()))
    }

    fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.shelf.put(connection);
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Closes the socket without a farewell, which could wait for a server that does not answer.
            drop(connection.detach());
        }
    }
}
