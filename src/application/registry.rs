//! The list of commands by name, with their types erased.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::domain::{Id, User};

use super::actor::{Access, Actor};
use super::dto::Reply;
use super::error::{Detail, Failure, Refusal};
use super::fields::Fields;
use super::message::{Message, NoMeta};
use super::ports::{Pending, Services};
use super::schema::{Kind, RequestContract};
use super::workspace::{Needs, Workspace};

/// A command of the contract: pure, but for what it prepares before the transaction.
pub trait Command: Message<Meta = NoMeta> {
    /// Who may send it.
    const ACCESS: Access;

    /// Who may send this very one, where the payload decides.
    fn access(&self) -> Access {
        Self::ACCESS
    }

    /// The user whom the message names, for [`Access::OwnerOrAdmin`].
    fn owner(&self) -> Option<Id<User>>;

    /// Commands with the same key are applied in the order they came. It is stored in clear beside a command that
    /// failed, so it holds nothing secret.
    fn order_key(&self) -> String;

    /// What to load and lock.
    fn needs(&self) -> Needs;

    /// Whether [`prepare`](Self::prepare) has anything to do.
    const PREPARES: bool = false;

    /// Expensive work before the transaction, such as a password's hash. Not repeated when a batch runs again.
    fn prepare(
        &mut self,
        _actor: &Actor,
        _services: &Services,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }

    /// Decides, on loaded aggregates. May run again, so it must not consume what it prepared.
    ///
    /// # Errors
    /// [`Decline`]
    fn execute(&self, context: &Context<'_>, work: &mut Workspace) -> Result<Self::Data, Decline>;
}

/// What a handler may know of the world.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub now: DateTime<Utc>,
    pub actor: &'a Actor,
    /// An id nobody has, for what the command creates.
    pub fresh_id: uuid::Uuid,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decline {
    /// The state says no. The refusal is the answer, and is stored.
    Refused(Refusal),
    /// What was prepared no longer fits the state: prepare and run it again.
    Stale,
}

impl<E: Into<Refusal>> From<E> for Decline {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// A [`Command`] whose type is forgotten.
pub trait ErasedCommand: Send + Sync + fmt::Debug {
    fn name(&self) -> &'static str;
    /// # Errors
    /// `UNAUTHORIZED` or `FORBIDDEN`.
    fn authorize(&self, actor: &Actor) -> Result<(), Refusal>;
    fn order_key(&self) -> String;
    fn needs(&self) -> Needs;
    fn prepares(&self) -> bool;
    fn prepare<'a>(
        &'a mut self,
        actor: &'a Actor,
        services: &'a Services,
    ) -> Pending<'a, Result<(), Failure>>;
    /// The reply's body.
    ///
    /// # Errors
    /// [`Decline`]
    fn execute(&self, context: &Context<'_>, work: &mut Workspace) -> Result<Arc<str>, Decline>;
}

struct Erased<C>(C);

impl<C: Command> fmt::Debug for Erased<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(C::NAME)
    }
}

impl<C: Command + Sync> ErasedCommand for Erased<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn authorize(&self, actor: &Actor) -> Result<(), Refusal> {
        actor.may(self.0.access(), self.0.owner())
    }

    fn order_key(&self) -> String {
        self.0.order_key()
    }

    fn needs(&self) -> Needs {
        self.0.needs()
    }

    fn prepares(&self) -> bool {
        C::PREPARES
    }

    fn prepare<'a>(
        &'a mut self,
        actor: &'a Actor,
        services: &'a Services,
    ) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.0.prepare(actor, services))
    }

    fn execute(&self, context: &Context<'_>, work: &mut Workspace) -> Result<Arc<str>, Decline> {
        let data = self.0.execute(context, work)?;
        // A reply type that cannot be serialised is a bug, and treated like a panic's.
        Ok(serde_json::to_string(&Reply::<_, NoMeta> { data, meta: None })
            .map_err(|_| Decline::Refused(Refusal::internal()))?
            .into())
    }
}

type Reader = fn(Fields) -> Result<Box<dyn ErasedCommand>, Vec<Detail>>;
/// Turns an older version's payload into the next one's.
pub type Upcast = fn(Map<String, Value>) -> Map<String, Value>;

/// Two commands have the same name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the message type {0} is registered twice")]
pub struct DuplicateName(pub &'static str);

/// Every command by its name, and the older versions that lead to one.
#[derive(Debug, Default)]
pub struct Registry {
    readers: HashMap<&'static str, Reader>,
    upcasts: HashMap<&'static str, (&'static str, Upcast)>,
    contracts: Vec<fn() -> RequestContract>,
}

impl Registry {
    /// # Errors
    /// [`DuplicateName`]
    pub fn command<C: Command + Sync>(mut self) -> Result<Self, DuplicateName> {
        self.claim(C::NAME)?;
        self.readers.insert(C::NAME, |fields| Ok(Box::new(Erased(C::read(fields)?))));
        self.contracts.push(|| RequestContract::of::<C>(Kind::Command, C::ACCESS));
        Ok(self)
    }

    /// Accepts an older version, whose payload `upcast` turns into that of `newer`.
    ///
    /// # Errors
    /// [`DuplicateName`]
    pub fn older(
        mut self,
        older: &'static str,
        newer: &'static str,
        upcast: Upcast,
    ) -> Result<Self, DuplicateName> {
        self.claim(older)?;
        self.upcasts.insert(older, (newer, upcast));
        Ok(self)
    }

    fn claim(&self, name: &'static str) -> Result<(), DuplicateName> {
        if self.knows(name) { Err(DuplicateName(name)) } else { Ok(()) }
    }

    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.readers.contains_key(name) || self.upcasts.contains_key(name)
    }

    /// What the schemas say of each command, in the order they were listed.
    pub fn contracts(&self) -> impl Iterator<Item = RequestContract> {
        self.contracts.iter().map(|contract| contract())
    }

    /// Reads a payload as the command `name`; `None` if there is no such command.
    #[must_use]
    pub fn read(
        &self,
        name: &str,
        mut payload: Map<String, Value>,
    ) -> Option<Result<Box<dyn ErasedCommand>, Vec<Detail>>> {
        let mut name = name;
        // Each step leads to another name, so there are at most as many as there are upcasts.
        for _ in 0..=self.upcasts.len() {
            if let Some(reader) = self.readers.get(name) {
                return Some(reader(Fields::new(payload)));
            }
            let (newer, upcast) = self.upcasts.get(name)?;
            payload = upcast(payload);
            name = newer;
        }
        None
    }
}
