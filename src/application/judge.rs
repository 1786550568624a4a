//! Judges a message as far as that goes without the database: type, envelope, payload, access, in this order.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::actor::{Actor, Grant};
use super::error::{Code, Detail, Reason, Refusal};
use super::json;
use super::kept::{KeptCommand, KeptReason};
use super::message::{Header, MessageKey, Properties, RawMessage, Trace, time_of};
use super::ports::Services;
use super::query::{self, NoAnswer};
use super::registry::{ErasedCommand, Registry};
use super::task::{Kept, Original, Task, Work};
use crate::domain::Role;
use crate::failpoint;

/// The largest body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// How far a message's time may lie ahead.
const MAX_AHEAD: Duration = Duration::from_secs(600);

/// What judging depends on.
#[derive(Debug)]
pub struct Judge {
    pub registry: Registry,
    pub services: Services,
    pub grants: Vec<(String, Grant)>,
    pub reply_to: ReplyPatterns,
}

/// Names that replies may go to; `*` is any run of characters.
#[derive(Debug, Clone)]
pub struct ReplyPatterns(pub Vec<String>);

impl ReplyPatterns {
    #[must_use]
    pub fn allow(&self, name: &str) -> bool {
        !name.is_empty()
            && (name == "amq.rabbitmq.reply-to" || self.0.iter().any(|pattern| matches(pattern, name)))
    }
}

impl Default for ReplyPatterns {
    fn default() -> Self {
        Self(["amq.gen-*", "amq.rabbitmq.reply-to.*", "reply.*"].map(Into::into).into())
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|left| {
            left.char_indices()
                .map(|(at, _)| at)
                .chain([left.len()])
                .any(|at| left.get(at..).is_some_and(|tail| matches(rest, tail)))
        }),
    }
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

    fn kept(
        &self,
        kept: KeptCommand,
        body: Vec<u8>,
        work: impl FnOnce(&RawMessage, &[Detail], &Actor) -> Work,
    ) -> Task {
        let KeptCommand { id, attempts, first_error, waiters, properties, .. } = kept;
        let actor = if failpoint::bug("retry_forgets_actor") {
            Actor::Anonymous
        } else {
            parse_actor(&kept.actor, kept.grant.as_deref())
        };
        let mut task = self.task(RawMessage { properties, body }, actor, work);
        task.kept = Some(Kept { id, attempts, first_error, waiters });
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
        let RawMessage { properties, body } = raw;
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
        let (body, failure) = match self.answer(raw).await {
            Ok(body) => (Ok(body), None),
            Err(NoAnswer::Refused(refusal)) => (Err(refusal), None),
            Err(NoAnswer::Failed(failure)) => (Err(Refusal::internal()), Some(failure.what)),
        };
        Some(Answered { reply_to, body, failure })
    }

    async fn answer(&self, raw: &RawMessage) -> Result<Arc<str>, NoAnswer> {
        let properties = &raw.properties;
        let name = known_type(properties, |name| query::find(name).is_some())?;
        let now = self.services.clock.now();
        let mut details = Vec::new();
        if let Some(text) = &properties.message_id
            && parse_uuid(text).is_none()
        {
            details.push(Detail::new("message_id", Reason::InvalidUuid, "must be a UUID"));
        }
        let deadline = read_deadline(properties, &mut details);
        let payload = payload(properties, &raw.body, &details)?;
        if !details.is_empty() {
            return Err(Refusal::invalid(details).into());
        }
        if properties.authorization.is_some() {
            return Err(Refusal::unauthorized(Reason::InvalidToken).into());
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refusal::expired(Reason::DeadlinePassed).into());
        }
        let actor = self.actor(properties);
        match query::find(name) {
            Some(run) => run(payload, &actor, &*self.services.read).await,
            None => Err(unknown_type().into()),
        }
    }

    fn actor(&self, properties: &Properties) -> Actor {
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

struct Envelope {
    key: Option<MessageKey>,
    deadline: Option<DateTime<Utc>>,
    details: Vec<Detail>,
}

fn read_envelope(properties: &Properties, now: DateTime<Utc>) -> Envelope {
    let mut details = Vec::new();
    let deadline = read_deadline(properties, &mut details);
    let key = read_key(properties, now, &mut details);
    Envelope { key, deadline, details }
}

fn read_key(properties: &Properties, now: DateTime<Utc>, details: &mut Vec<Detail>) -> Option<MessageKey> {
    let Some(text) = properties.message_id.as_deref().filter(|text| !text.is_empty()) else {
        details.push(Detail::new("message_id", Reason::MissingMessageId, "a command needs a message_id"));
        return None;
    };
    let Some(message_id) = parse_uuid(text) else {
        details.push(Detail::new("message_id", Reason::InvalidUuid, "must be a UUID"));
        return None;
    };
    let (field, time) = match (time_of(message_id), properties.timestamp) {
        (Some(time), _) => ("message_id", Some(time)),
        (None, Some(seconds)) => (
            "timestamp",
            i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
        ),
        (None, None) => {
            let message = "a message_id that is no UUIDv7 needs a timestamp beside it";
            details.push(Detail::new("timestamp", Reason::Missing, message));
            return None;
        }
    };
    match time.filter(|time| *time <= now + MAX_AHEAD) {
        Some(time) => Some(MessageKey { message_id, issued_on: time.date_naive() }),
        None => {
            details.push(Detail::new(
                field,
                Reason::InvalidValue,
                "its time lies more than 10 minutes ahead",
            ));
            None
        }
    }
}

fn read_deadline(properties: &Properties, details: &mut Vec<Detail>) -> Option<DateTime<Utc>> {
    let read = match properties.deadline.as_ref()? {
        Header::Text(text) => DateTime::parse_from_rfc3339(text).ok(),
        Header::NotText {} => None,
    };
    if read.is_none() {
        details.push(Detail::new("deadline", Reason::InvalidValue, "must be an RFC 3339 time"));
    }
    read.map(|time| time.to_utc())
}

fn parse_uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
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

fn envelope_reason(details: &[Detail]) -> KeptReason {
    let readable = details.iter().all(|detail| detail.field.as_deref() == Some("deadline"));
    if readable { KeptReason::Refused } else { KeptReason::Malformed }
}

/// The body as an object; what is wrong with the envelope is told along with what is wrong here.
fn payload(
    properties: &Properties,
    body: &[u8],
    envelope: &[Detail],
) -> Result<serde_json::Map<String, serde_json::Value>, Refusal> {
    let mut details = envelope.to_vec();
    if properties.content_type.as_deref().is_some_and(|text| !is_json(text)) {
        let message = "must be application/json or absent";
        details.push(Detail::new("content_type", Reason::UnsupportedContentType, message));
        return Err(Refusal::invalid(details));
    }
    // Before parsing: a large body costs memory several times its size.
    if body.len() > MAX_BODY {
        details.push(Detail::new("body", Reason::TooLarge, "must have at most 65536 bytes"));
        return Err(Refusal::invalid(details));
    }
    json::object(body).map_err(|malformed| {
        details.push(Detail::new("body", Reason::MalformedJson, malformed.0));
        Refusal::invalid(details)
    })
}

/// What a body that may be wrong in any way is about, if that can be told.
fn named(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Names {
        user_id: Option<Uuid>,
        id: Option<Uuid>,
        session_id: Option<Uuid>,
    }
    let names: Names = serde_json::from_slice(body.get(..=MAX_BODY).is_none().then_some(body)?).ok()?;
    names.user_id.or(names.id).or(names.session_id).map(|id| id.to_string())
}

fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';');
    let essence = parts.next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        && parts.all(|parameter| parameter.trim().eq_ignore_ascii_case("charset=utf-8"))
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
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("amq.rabbitmq.reply-to", true)]
    #[case("amq.rabbitmq.reply-to.g1h2AA5yZXBseUAx.x==", true)]
    #[case("amq.gen-Xyz", true)]
    #[case("reply.billing", true)]
    #[case("roster.commands", false)]
    #[case("replies", false)]
    #[case("", false)]
    fn only_reply_queues_are_replied_to(#[case] name: &str, #[case] allowed: bool) {
        assert_eq!(ReplyPatterns::default().allow(name), allowed);
    }

    #[rstest]
    #[case("a*c", "abc", true)]
    #[case("a*c", "ac", true)]
    #[case("a*c*", "axcyc", true)]
    #[case("a*c", "ab", false)]
    #[case("*é*", "caféx", true)]
    fn a_star_is_any_run(#[case] pattern: &str, #[case] name: &str, #[case] fits: bool) {
        assert_eq!(matches(pattern, name), fits);
    }

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
