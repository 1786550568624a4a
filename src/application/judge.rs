//! Judges a message as far as that goes without the database: type, envelope, payload, access, in this order.

use std::sync::Arc;

use super::actor::{Actor, Grant};
use super::envelope::{
    ahead, envelope_reason, is_ahead, named, parse_uuid, payload, read_deadline, read_envelope,
};
use super::error::{Code, Detail, Reason, Refusal};
use super::kept::{KeptCommand, KeptReason, Verdict};
use super::message::{Properties, RawMessage, Trace, time_of};
use super::ports::Services;
use super::query::{self, Misgivings, NoAnswer};
use super::registry::{ErasedCommand, Registry};
pub use super::reply_patterns::ReplyPatterns;
use super::task::{Kept, Original, Task, Work};
use crate::domain::Role;
use crate::failpoint;

/// What judging depends on.
#[derive(Debug)]
pub struct Judge {
    pub registry: Registry,
    pub services: Services,
    pub grants: Vec<(String, Grant)>,
    pub reply_to: ReplyPatterns,
}

impl Judge {
    /// A command as the broker delivered it.
    #[must_use]
    pub fn command(&self, raw: RawMessage) -> Task {
        let actor = self.actor(&raw.properties);
        let bad_token =
            raw.properties.authorization.as_ref().map(|_| Refusal::unauthorized(Reason::InvalidToken));
        self.task(raw, actor, |raw, envelope, actor| self.work(raw, envelope, actor, bad_token))
    }

    /// A command that failed before, as it was kept: the same id, reply queue, actor and trace.
    ///
    /// # Errors
    /// [`Failure`](super::error::Failure) where its body cannot be opened: another `ROSTER_SECRET`.
    pub fn again(&self, kept: &KeptCommand) -> Result<Task, super::error::Failure> {
        let body = self.services.vault.open(&kept.sealed_body, kept.id.as_bytes())?;
        Ok(self.kept(kept.clone(), body, |raw, envelope, actor| self.work(raw, envelope, actor, None)))
    }

    /// A kept command that is not to be run again. Its body is not looked at.
    #[must_use]
    pub fn given_up(&self, kept: KeptCommand, reason: KeptReason, error: &'static str) -> Task {
        let (fingerprint, aggregate) = (kept.fingerprint, kept.aggregate.clone());
        let task = self.kept(kept, Vec::new(), |_, _, _| Work::Park(reason, error.into()));
        Task { fingerprint, aggregate, ..task }
    }

    /// A dead letter that nobody may have been told of. Its body is not looked at.
    #[must_use]
    pub fn untold(&self, kept: KeptCommand) -> Task {
        let reason = kept.reason;
        self.given_up(kept, reason, "")
    }

    fn kept(
        &self,
        kept: KeptCommand,
        body: Vec<u8>,
        work: impl FnOnce(&RawMessage, &[Detail], &Actor) -> Work,
    ) -> Task {
        let KeptCommand { id, attempts, first_error, waiters, properties, .. } = kept;
        let dead = matches!(kept.verdict, Verdict::Untold { .. }).then_some(kept.reason);
        let actor = if failpoint::bug("retry_forgets_actor") {
            Actor::Anonymous
        } else {
            parse_actor(&kept.actor, kept.grant.as_deref())
        };
        let mut task = self.task(RawMessage { properties, body }, actor, work);
        task.kept = Some(Kept { id, attempts, first_error, dead, waiters });
        task.suspect = true;
        task
    }

    /// A command that is not to be run: the broker parked it, or would soon. It is not even read as a command: that
    /// may be what kills the process.
    #[must_use]
    pub fn parked(&self, raw: RawMessage, reason: KeptReason) -> Task {
        let actor = self.actor(&raw.properties);
        let error = match reason {
            KeptReason::Expired => "its time ran out before anybody took it",
            _ => "it was delivered too often: it may kill the process",
        };
        let mut task = self.task(raw, actor, |_, _, _| Work::Park(reason, error.into()));
        task.suspect = true;
        task.redelivered = true;
        task
    }

    fn task(
        &self,
        raw: RawMessage,
        actor: Actor,
        work: impl FnOnce(&RawMessage, &[Detail], &Actor) -> Work,
    ) -> Task {
        let fingerprint = self.services.vault.fingerprint(&raw.body);
        let envelope = read_envelope(&raw.properties, self.services.clock.now());
        let work = work(&raw, &envelope.details, &actor);
        let aggregate = match &work {
            Work::Run(command) => Some(command.order_key()),
            Work::Refuse(..) | Work::Park(..) => named(&raw.body),
        };
        let RawMessage { mut properties, body } = raw;
        // Judged above, and needed no more: what is not carried along cannot be logged or kept.
        properties.authorization = None;
        let reply_to = properties.reply_to.clone().filter(|name| self.reply_to.allow(name));
        Task {
            key: envelope.key,
            message_type: properties.kind.clone().unwrap_or_default(),
            fingerprint,
            suspect: reply_to.is_none() || matches!(work, Work::Refuse(..)),
            correlation_id: properties.correlation_id.clone(),
            reply_to,
            trace: Trace::read(&properties),
            deadline: envelope.deadline,
            actor,
            work,
            aggregate,
            original: Original { properties, body: body.into() },
            kept: None,
            redelivered: false,
        }
    }

    fn work(&self, raw: &RawMessage, envelope: &[Detail], actor: &Actor, bad_token: Option<Refusal>) -> Work {
        match self.read(raw, envelope, actor, bad_token) {
            Ok(command) => Work::Run(command),
            Err((refusal, reason)) => Work::Refuse(refusal, reason),
        }
    }

    fn read(
        &self,
        RawMessage { properties, body }: &RawMessage,
        envelope: &[Detail],
        actor: &Actor,
        bad_token: Option<Refusal>,
    ) -> Result<Box<dyn ErasedCommand>, (Refusal, KeptReason)> {
        let name = known_type(properties, |name| self.registry.knows(name))
            .map_err(|refusal| (refusal, KeptReason::UnknownType))?;
        let payload = payload(properties, body, envelope).map_err(|refusal| {
            let malformed = refusal.details.iter().any(|detail| {
                matches!(
                    detail.reason,
                    Reason::MalformedJson
                        | Reason::TooLarge
                        | Reason::UnsupportedContentType
                        | Reason::MissingMessageId
                ) || detail.field.as_deref() == Some("message_id")
            });
            (refusal, if malformed { KeptReason::Malformed } else { KeptReason::Refused })
        })?;
        let command = match self.registry.read(name, payload) {
            Some(Ok(command)) => command,
            Some(Err(details)) => {
                let refusal = Refusal::invalid([envelope, &details].concat());
                return Err((refusal, envelope_reason(envelope)));
            }
            None => return Err((unknown_type(), KeptReason::UnknownType)),
        };
        if !envelope.is_empty() {
            return Err((Refusal::invalid(envelope.to_vec()), envelope_reason(envelope)));
        }
        match bad_token {
            Some(refusal) => Err((refusal, KeptReason::Refused)),
            None => match command.authorize(actor) {
                Ok(()) => Ok(command),
                Err(refusal) => Err((refusal, KeptReason::Refused)),
            },
        }
    }

    /// Judges and answers a query; `None` where nobody waits for the answer.
    pub async fn query(&self, raw: &RawMessage) -> Option<Answered> {
        let reply_to = raw.properties.reply_to.clone().filter(|name| self.reply_to.allow(name))?;
        self.services.passwords.make_way();
        let (body, failure) = match self.answer(raw).await {
            Ok(body) => (Ok(body), None),
            Err(NoAnswer::Refused(refusal)) => (Err(refusal), None),
            Err(NoAnswer::Failed(failure)) => (Err(Refusal::unanswered()), Some(failure.what)),
        };
        Some(Answered { reply_to, body, failure })
    }

    async fn answer(&self, raw: &RawMessage) -> Result<Arc<str>, NoAnswer> {
        let properties = &raw.properties;
        let name = known_type(properties, |name| query::find(name).is_some())?;
        let now = self.services.clock.now();
        let mut envelope = Vec::new();
        if let Some(text) = &properties.message_id {
            match parse_uuid(text) {
                None => envelope.push(Detail::new("message_id", Reason::InvalidUuid, "must be a UUID")),
                Some(id) if time_of(id).is_some_and(|time| is_ahead(time, now)) => {
                    envelope.push(ahead("message_id"))
                }
                Some(_) => {}
            }
        }
        let deadline = read_deadline(properties, &mut envelope);
        let payload = payload(properties, &raw.body, &envelope)?;
        let misgivings = Misgivings {
            envelope,
            token: properties.authorization.as_ref().map(|_| Refusal::unauthorized(Reason::InvalidToken)),
            too_late: deadline
                .is_some_and(|deadline| deadline <= now)
                .then(|| Refusal::expired(Reason::DeadlinePassed)),
        };
        let actor = self.actor(properties);
        match query::find(name) {
            Some(run) => run(payload, misgivings, &actor, &*self.services.read).await,
            None => Err(unknown_type().into()),
        }
    }

    fn actor(&self, properties: &Properties) -> Actor {
        // Whoever shows a token is the user in it, and never the service that passes it on.
        if properties.authorization.is_some() {
            return Actor::Anonymous;
        }
        properties
            .user_id
            .as_ref()
            .and_then(|name| self.grants.iter().find(|(service, _)| service == name))
            .map_or(Actor::Anonymous, |(name, grant)| Actor::Service { name: name.clone(), grant: *grant })
    }
}

/// A query's answer.
#[derive(Debug)]
pub struct Answered {
    pub reply_to: String,
    pub body: Result<Arc<str>, Refusal>,
    /// For the log: what went wrong inside.
    pub failure: Option<String>,
}

impl Answered {
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.body.as_ref().err().map(|refusal| refusal.code)
    }
}

fn known_type(properties: &Properties, known: impl Fn(&str) -> bool) -> Result<&str, Refusal> {
    match properties.kind.as_deref() {
        None | Some("") => Err(Refusal::invalid(vec![Detail::new("type", Reason::Missing, "is required")])),
        Some(name) if known(name) => Ok(name),
        Some(_) => Err(unknown_type()),
    }
}

fn unknown_type() -> Refusal {
    Refusal::invalid(vec![Detail::new("type", Reason::UnknownType, "no such message type")])
}

/// The inverse of [`Actor`]'s `Display`, with the role or grant that was kept beside it.
fn parse_actor(text: &str, grant: Option<&str>) -> Actor {
    match text.split_once(':') {
        Some(("user", id)) => match (parse_uuid(id), grant.map(Role::parse)) {
            (Some(id), Some(Ok(role))) => Actor::User { id: crate::domain::Id::new(id), role },
            _ => Actor::Anonymous,
        },
        Some(("service", name)) => match grant {
            Some("admin") => Actor::Service { name: name.into(), grant: Grant::Admin },
            Some("reader") => Actor::Service { name: name.into(), grant: Grant::Reader },
            _ => Actor::Anonymous,
        },
        _ => Actor::Anonymous,
    }
}

/// The role or grant to keep beside an actor's name.
#[must_use]
pub fn grant_of(actor: &Actor) -> Option<String> {
    match actor {
        Actor::User { role, .. } => Some(role.as_str().into()),
        Actor::Service { grant: Grant::Admin, .. } => Some("admin".into()),
        Actor::Service { grant: Grant::Reader, .. } => Some("reader".into()),
        Actor::Anonymous => None,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_actor_survives_being_kept() {
        for actor in [
            Actor::Anonymous,
            Actor::Service { name: "billing".into(), grant: Grant::Reader },
            Actor::Service { name: "a:b".into(), grant: Grant::Admin },
            Actor::User { id: crate::domain::Id::new(Uuid::from_u128(7)), role: Role::Admin },
        ] {
            assert_eq!(parse_actor(&actor.to_string(), grant_of(&actor).as_deref()), actor);
        }
    }
}
