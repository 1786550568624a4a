//! The read model: queries see users and events as they were committed, on connections of their own.

use sqlx::postgres::PgPool;

use crate::application::dto::{EventPage, EventView, PageMeta, UserView};
use crate::application::error::Failure;
use crate::application::ports::{Pending, ReadModel};
use crate::application::query::{EventFilter, UserFilter, UserKey};
use crate::domain::{Id, PasswordHash, User};

use super::connections::Connections;
use super::event_list;
use super::loan::answered;
use super::lookups::Lookups;
use super::user_list;

#[derive(Debug)]
pub struct PgReadModel {
    pool: PgPool,
    lookups: Lookups,
    source: String,
    schema_base: String,
}

impl PgReadModel {
    /// Events are shown as they are published, with this `source` (`/` and the namespace) and the base of
    /// their `dataschema`. Needs a tokio runtime.
    #[must_use]
    pub fn new(connections: &Connections, source: String, schema_base: String) -> Self {
        let pool = connections.queries.clone();
        Self { lookups: Lookups::new(&pool), pool, source, schema_base }
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
        Box::pin(user_list::list(&self.pool, filter))
    }

    fn events<'a>(
        &'a self,
        filter: &'a EventFilter,
    ) -> Pending<'a, Result<(Vec<EventView>, EventPage), Failure>> {
        Box::pin(event_list::list(&self.pool, filter, &self.source, &self.schema_base))
    }

    fn password_hash(&self, id: Id<User>) -> Pending<'_, Result<Option<PasswordHash>, Failure>> {
        Box::pin(async move {
            let query = sqlx::query_scalar!(
                "select password_hash from users where id = $1 and deleted_at is null",
                id.uuid()
            );
            Ok(answered(query.fetch_optional(&self.pool)).await?.map(PasswordHash::new))
        })
    }
}
