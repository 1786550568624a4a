//! Folds new users into the search index in the background; a command would otherwise do it for hundreds of others.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::loan::answered;

/// The more at a time, the cheaper each. A search reads through those that wait.
const GATHER: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct SearchIndex {
    grown: Arc<Notify>,
    worker: JoinHandle<()>,
}

impl SearchIndex {
    /// Needs a tokio runtime.
    pub fn new(pool: &PgPool) -> Self {
        let grown = Arc::new(Notify::new());
        Self { worker: tokio::spawn(fold(pool.clone(), Arc::clone(&grown))), grown }
    }

    /// To be told of new entries.
    pub fn has_grown(&self) {
        self.grown.notify_one();
    }
}

impl Drop for SearchIndex {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

async fn fold(pool: PgPool, grown: Arc<Notify>) {
    loop {
        grown.notified().await;
        tokio::time::sleep(GATHER).await;
        let query = sqlx::query!("select gin_clean_pending_list('users_search')");
        if let Err(failure) = answered(query.fetch_one(&pool)).await {
            // Not the tables' owner, perhaps: then the commands do it, and autovacuum.
            tracing::debug!(%failure, "the search index was not tidied");
        }
    }
}
