//! The read model: queries see users and events as they were committed, on connections of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::application::dto::{EventPage, EventView, PageMeta, UserView};
use crate::application::error::{Failure, FailureKind};
use crate::application::ports::{Pending, ReadModel};
use crate::application::query::{EventFilter, UserFilter, UserKey};
use crate::domain::{Id, PasswordHash, User};

use super::connections::Connections;
use super::event_list;
use super::loan::answered;
use super::lookups::Lookups;
use super::shelf::Shelf;
use super::user_list;

/// A connection that turns out to be dead tells so at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Reads, and reads again where the connection was lost while it rested, as all do when the server is restarted.
pub(super) async fn read<T, F>(shelf: &Shelf, read: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let begun = Instant::now();
    for _ in 0..shelf.size() {
        match read().await {
            Err(failure) if failure.kind == FailureKind::Away && begun.elapsed() < AT_ONCE => {}
            answer => return answer,
        }
    }
    read().await
}

#[derive(Debug)]
pub struct PgReadModel {
    shelf: Arc<Shelf>,
    lookups: Lookups,
    source: String,
    schema_base: String,
}

impl PgReadModel {
    /// Events are shown as they are published, with this `source` (`/` and the namespace) and the base of
    /// their `dataschema`. Needs a tokio runtime.
    #[must_use]
    pub fn new(connections: &Connections, source: String, schema_base: String) -> Self {
        let shelf = Arc::clone(&connections.readers);
        Self { lookups: Lookups::new(&connections.lookers), shelf, source, schema_base }
    }
}

impl ReadModel for PgReadModel {
    fn user(&self, key: UserKey) -> Pending<'_, Result<Option<UserView>, Failure>> {
        Box::pin(self.lookups.user(key))
    }

    fn users<'a>(
        &'a self,
        filter: &'a UserFilter,
    ) -> Pending<'a, Result<(Vec<UserView>, PageMeta), Failure>> {
        Box::pin(read(&self.shelf, || user_list::list(&self.shelf, filter)))
    }

    fn events<'a>(
        &'a self,
        filter: &'a EventFilter,
    ) -> Pending<'a, Result<(Vec<EventView>, EventPage), Failure>> {
        Box::pin(read(&self.shelf, || event_list::list(&self.shelf, filter, &self.source, &self.schema_base)))
    }

    fn password_hash(&self, id: Id<User>) -> Pending<'_, Result<Option<PasswordHash>, Failure>> {
        Box::pin(read(&self.shelf, move || async move {
            let query = sqlx::query_scalar!(
                // From the end, as when a batch reads its users.
                "select password_hash from (
                    select * from users where id >= $1 and id <= $1 order by id desc limit 1
                ) as found where deleted_at is null",
                id.uuid()
            );
            let mut lent = self.shelf.lend().await?;
            let found = answered(query.fetch_optional(lent.connection()?)).await;
            Ok(lent.note(found)?.map(PasswordHash::new))
        }))
    }
}
