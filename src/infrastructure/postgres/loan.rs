//! A connection on loan, which goes back only when it has answered and its transaction is over.

use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::postgres::PgConnection;

use crate::application::error::{Failure, FailureKind};

use super::errors;
use super::shelf::{Shelf, Taken};

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

/// A connection, in a transaction or not. Dropped before it was committed or rolled back, it is closed, and the
/// server rolls back: the pool would otherwise lend it on with the transaction still open.
#[derive(Debug)]
pub struct Loan {
    taken: Option<Taken>,
    shelf: Arc<Shelf>,
    state: State,
    begun: bool,
    /// It may turn out that the server was restarted since it was used last.
    rested: bool,
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
    /// Borrows a connection on which each statement commits by itself.
    pub async fn take(shelf: &Arc<Shelf>) -> Result<Self, Failure> {
        let taken = shelf.take().await?;
        let (rested, taken, shelf) = (taken.rested, Some(taken), Arc::clone(shelf));
        Ok(Self { taken, shelf, state: State::Sound, begun: false, rested })
    }

    /// Borrows a connection and begins a transaction: one round trip.
    pub async fn begin(shelf: &Arc<Shelf>) -> Result<Self, Failure> {
        loop {
            let mut loan = Self::take(shelf).await?;
            match loan.begin_here().await {
                Ok(()) => return Ok(loan),
                Err(failure) if loan.was_stale(&failure) => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// From here on the statements are one transaction.
    pub async fn begin_here(&mut self) -> Result<(), Failure> {
        self.begun = true;
        self.run("begin").await
    }

    pub const fn in_transaction(&self) -> bool {
        self.begun
    }

    /// Whether a first statement failed because the server was restarted while the connection rested: nothing is
    /// lost then, and another connection may do.
    pub fn was_stale(&self, failure: &Failure) -> bool {
        self.rested && failure.kind == FailureKind::Away
    }

    pub fn connection(&mut self) -> Result<&mut PgConnection, Failure> {
        match &mut self.taken {
            Some(taken) => Ok(taken.connection()),
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
        if self.begun {
            self.run("commit").await?;
        }
        self.give_back();
        Ok(())
    }

    pub async fn rollback(mut self) {
        if self.state != State::Lost && (!self.begun || self.run("rollback").await.is_ok()) {
            self.give_back();
        }
    }

    async fn run(&mut self, statement: impl SqlSafeStr) -> Result<(), Failure> {
        let answer = answered(sqlx::Executor::execute(self.connection()?, sqlx::raw_sql(statement))).await;
        self.note(answer.map(|_| ()))
    }

    fn give_back(mut self) {
        if let Some(taken) = self.taken.take() {
            self.shelf.put(taken);
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            taken.abandon();
        }
    }
}
