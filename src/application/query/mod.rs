//! The queries of the contract, one file each. They read, at most once, and never enter a lane.

mod get_user;
mod list_events;
mod list_users;

pub use get_user::GetUser;
pub use get_user::UserKey;
pub use list_events::{EventFilter, ListEvents};
pub use list_users::{Cursor, ListUsers, Order, Sort, SortKey, UserFilter, Window};

use std::sync::Arc;

use serde_json::{Map, Value};

use super::actor::{Access, Actor};
use super::dto::Reply;
use super::error::{Detail, Failure, Refusal};
use super::fields::Fields;
use super::message::Message;
use super::ports::{Pending, ReadModel};
use super::schema::{Kind, RequestContract};
use crate::domain::{Id, User};

/// A query of the contract.
pub trait Query: Message {
    const ACCESS: Access;

    /// The user whom the query names by id, for [`Access::OwnerOrReader`].
    fn owner(&self) -> Option<Id<User>> {
        None
    }

    fn answer(
        self,
        read: &dyn ReadModel,
    ) -> impl Future<Output = Result<Reply<Self::Data, Self::Meta>, NoAnswer>> + Send;
}

/// Why a query has no data to answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    Refused(Refusal),
    Failed(Failure),
}

impl From<Refusal> for NoAnswer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What is wrong with a query beside its payload.
#[derive(Debug)]
pub struct Misgivings {
    /// With the envelope: told together with what is wrong with the payload.
    pub envelope: Vec<Detail>,
    /// Judged after the payload, before access.
    pub token: Option<Refusal>,
    /// Judged last, as of a command.
    pub too_late: Option<Refusal>,
}

type Runner = for<'a> fn(
    Map<String, Value>,
    Misgivings,
    &'a Actor,
    &'a dyn ReadModel,
) -> Pending<'a, Result<Arc<str>, NoAnswer>>;

/// A [`Query`] whose type is forgotten.
struct Entry {
    name: &'static str,
    run: Runner,
    contract: fn() -> RequestContract,
}

const fn entry<Q: Query>() -> Entry {
    Entry { name: Q::NAME, run: run::<Q>, contract: || RequestContract::of::<Q>(Kind::Query, Q::ACCESS) }
}

/// Every query that Roster answers.
static QUERIES: [Entry; 3] = [entry::<GetUser>(), entry::<ListUsers>(), entry::<ListEvents>()];

/// How to run the query of this name; `None` if there is no such query.
#[must_use]
pub fn find(name: &str) -> Option<Runner> {
    QUERIES.iter().find(|entry| entry.name == name).map(|entry| entry.run)
}

/// What the schemas say of each query.
pub fn contracts() -> impl Iterator<Item = RequestContract> {
    QUERIES.iter().map(|entry| (entry.contract)())
}

fn run<'a, Q: Query>(
    payload: Map<String, Value>,
    Misgivings { envelope, token, too_late }: Misgivings,
    actor: &'a Actor,
    read: &'a dyn ReadModel,
) -> Pending<'a, Result<Arc<str>, NoAnswer>> {
    Box::pin(async move {
        let query = match Q::read(Fields::new(payload)) {
            Ok(query) if envelope.is_empty() => query,
            Ok(_) => return Err(Refusal::invalid(envelope).into()),
            Err(details) => return Err(Refusal::invalid([envelope, details].concat()).into()),
        };
        if let Some(refusal) = token {
            return Err(refusal.into());
        }
        actor.may(Q::ACCESS, query.owner())?;
        if let Some(refusal) = too_late {
            return Err(refusal.into());
        }
        let reply = query.answer(read).await?;
        Ok(serde_json::to_string(&reply).map_err(|_| Refusal::unanswered())?.into())
    })
}
