//! One call from its first try to its answer: when to send again, and when to give up.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, ErrorKind};
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::Options;
use super::endpoint::Lane;
use super::error::{BadRequest, Error, Unavailable};
use super::link::Link;
use super::pause::Pause;
use super::pending::Waiting;
use super::request::{CallOptions, RawReply};
use super::session::{REPLY_TO, Session};

/// How a try ended without an answer.
#[derive(Debug)]
enum Failure {
    /// Nobody answered in time.
    Silence { confirmed: bool },
    /// The connection or channel went away under it.
    Lost,
    /// The broker closed the channel over this very kind of message.
    TurnedAway(lapin::Error),
    /// The broker would not take it.
    Nacked,
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Send again, at once or after a pause.
    Again {
        pause: bool,
    },
    GiveUp,
}

/// The tries a call has. A lost connection costs none: the broker's restart is not the worker's
/// silence; the call's own end bounds it.
#[derive(Debug)]
struct Tries {
    left: u32,
    refused_by_broker: u32,
}

impl Tries {
    fn after(&mut self, failure: &Failure) -> Next {
        match failure {
            Failure::Silence { .. } => self.spend(false),
            Failure::Nacked => self.spend(true),
            Failure::TurnedAway(_) => {
                // What the broker allows may just have been changed; twice is no accident.
                self.refused_by_broker += 1;
                if self.refused_by_broker > 1 { Next::GiveUp } else { Next::Again { pause: true } }
            }
            Failure::Lost => Next::Again { pause: true },
        }
    }

    fn spend(&mut self, pause: bool) -> Next {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 { Next::GiveUp } else { Next::Again { pause } }
    }
}

/// Whether the broker closed the channel over such a message: no permission to send it there, or not this user. All
/// calls share the channel, and one that was taken is not to be told that nothing was done because another was not.
fn turned_away(error: &lapin::Error, exchange: &str, routing_key: &str) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return false;
    };
    let text = error.get_message().as_str();
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            text.contains(&format!("exchange '{exchange}'"))
                && (!text.contains("topic '") || text.contains(&format!("topic '{routing_key}'")))
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => text.contains("user_id"),
        _ => false,
    }
}

pub(super) struct Call<'a> {
    pub(super) link: &'a Link,
    pub(super) lane: Lane,
    pub(super) name: &'a str,
    pub(super) body: Vec<u8>,
    pub(super) options: &'a Options,
    pub(super) own: CallOptions,
}

impl Call<'_> {
    pub(super) async fn run(self) -> Result<RawReply, Error> {
        let began = Instant::now();
        let message_id = self.own.message_id.unwrap_or_else(Uuid::now_v7);
        let patience = self.own.timeout.unwrap_or(self.options.timeout);
        let attempts = self.own.attempts.unwrap_or(self.options.attempts).max(1);
        let end = after(began, patience.saturating_mul(attempts));

        let mut waiting = self.link.pending.open();
        let properties = self.properties(message_id, waiting.correlation_id)?;
        let routing_key = short(self.name, "the type")?;
        let exchange = self.link.endpoint.lane(self.lane);
        let body: Arc<[u8]> = self.body.into();

        let (link, lane) = (self.link, self.lane);
        let taken = |session: &Session| {
            if lane == Lane::Commands {
                link.taken(session);
            }
        };
        let mut pause = Pause::new();
        let mut tries = Tries { left: attempts, refused_by_broker: 0 };
        let mut sent = 0;
        let given_up = |sent: u32, now: Option<Unavailable>| match now {
            Some(reason) if sent == 0 => Error::Unavailable(reason),
            now => Error::TimedOut {
                request: self.name.to_owned(),
                message_id,
                tries: sent,
                waited: began.elapsed(),
                now: now.map(Box::new),
            },
        };
        loop {
            let session = match self.link.session(end).await {
                Ok(session) => session,
                Err(reason) => return Err(given_up(sent, Some(reason))),
            };
            let until = end.min(after(Instant::now(), patience));
            let look_until = Instant::now() + until.duration_since(Instant::now()) / 2;
            if let Err(reason) = session.check_route(&exchange, look_until).await {
                return Err(given_up(sent, Some(reason)));
            }
            let publish = Arc::clone(&session).publish(
                exchange.clone(),
                routing_key.clone(),
                Arc::clone(&body),
                properties.clone(),
            );
            let lost = |cause: Option<lapin::Error>| match cause {
                Some(cause) if turned_away(&cause, exchange.as_str(), self.name) => {
                    Failure::TurnedAway(cause)
                }
                _ => Failure::Lost,
            };
            let failure = match one_try(&session, publish, &mut waiting, until, lost).await {
                Ok(delivered) => {
                    taken(&session);
                    return Ok(RawReply { body: delivered.body, replayed: delivered.replayed, message_id });
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::Silence { confirmed: true } => taken(&session),
                Failure::Silence { confirmed: false } => session.suspect(),
                Failure::Nacked => self.link.renew(&session),
                _ => {}
            }
            let next = tries.after(&failure);
            // What the broker turned away was not done; anything else may have been.
            let reason = match failure {
                Failure::Nacked => Some(Unavailable::Full { object: exchange.to_string() }),
                Failure::TurnedAway(cause) => Some(Unavailable::Rejected(cause)),
                Failure::Silence { .. } | Failure::Lost => {
                    sent += 1;
                    None
                }
            };
            match next {
                Next::GiveUp => return Err(given_up(sent, reason)),
                Next::Again { .. } if Instant::now() >= end => return Err(given_up(sent, reason)),
                Next::Again { pause: true } => sleep(pause.next()).await,
                Next::Again { pause: false } => {}
            }
        }
    }

    fn properties(&self, message_id: Uuid, correlation_id: Uuid) -> Result<BasicProperties, BadRequest> {
        let own = &self.own;
        let mut headers = FieldTable::default();
        let mut header = |name: &'static str, value: String| {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        if let Some(token) = own.token.as_ref().or(self.options.token.as_ref()) {
            header("authorization", format!("Bearer {}", token.expose_secret()));
        }
        if let Some(deadline) = own.deadline.or(self.options.deadline) {
            header("deadline", deadline_text(Utc::now(), deadline));
        }
        if let Some(traceparent) = &own.traceparent {
            header("traceparent", traceparent.clone());
        }
        if let Some(tracestate) = &own.tracestate {
            header("tracestate", tracestate.clone());
        }
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_type(short(self.name, "the type")?)
            .with_message_id(message_id.to_string().into())
            .with_correlation_id(correlation_id.to_string().into())
            .with_reply_to(REPLY_TO.into())
            .with_delivery_mode(match self.lane {
                Lane::Commands => 2,
                Lane::Queries => 1,
            })
            .with_headers(headers);
        if let Some(user) = self.link.endpoint.user() {
            properties = properties.with_user_id(user);
        }
        match (own.timestamp, message_id.get_version_num(), self.lane) {
            (Some(at), _, _) => {
                let seconds = u64::try_from(at.timestamp()).map_err(|_| BadRequest::Timestamp)?;
                properties = properties.with_timestamp(seconds);
            }
            (None, 7, _) | (None, _, Lane::Queries) => {}
            (None, _, Lane::Commands) => return Err(BadRequest::Timestamp),
        }
        Ok(properties)
    }
}

async fn one_try(
    session: &Arc<Session>,
    publish: impl Future<Output = lapin::Result<Confirmation>> + Send + 'static,
    waiting: &mut Waiting,
    until: Instant,
    lost: impl Fn(Option<lapin::Error>) -> Failure,
) -> Result<super::pending::Delivered, Failure> {
    // A task of its own, so that a caller who drops the call does not leave a confirm behind.
    let mut publish = tokio::spawn(publish);
    let mut confirmed = false;
    loop {
        tokio::select! {
            biased;
            answer = &mut waiting.answer => {
                return answer.map_err(|_| Failure::Lost);
            }
            outcome = &mut publish, if !confirmed => match outcome {
                Ok(Ok(Confirmation::Nack(_))) => return Err(Failure::Nacked),
                Ok(Ok(_)) => confirmed = true,
                Ok(Err(error)) => return Err(lost(Some(error))),
                // The runtime is going down.
                Err(_) => return Err(Failure::Lost),
            },
            () = session.over() => {
                // What was confirmed was not what the broker closed the channel over.
                let cause = session.cause().cloned().filter(|_| !confirmed);
                return Err(lost(cause));
            }
            () = sleep_until(until) => return Err(Failure::Silence { confirmed }),
        }
    }
}

fn after(start: Instant, wait: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);
    start + wait.min(FAR)
}

pub(super) fn short(text: &str, what: &'static str) -> Result<ShortString, BadRequest> {
    ShortString::try_new(text).map_err(|_| BadRequest::TooLong(what))
}

fn deadline_text(now: DateTime<Utc>, within: Duration) -> String {
    let within = chrono::TimeDelta::from_std(within).unwrap_or(chrono::TimeDelta::MAX);
    now.checked_add_signed(within)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn tries(left: u32) -> Tries {
        Tries { left, refused_by_broker: 0 }
    }

    fn closed_with(error: AMQPSoftError, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(error.into(), text.into())).into()
    }

    #[test]
    fn silence_is_asked_again_until_the_tries_are_spent() {
        let mut tries = tries(3);
        let silence = Failure::Silence { confirmed: true };
        assert_eq!(tries.after(&silence), Next::Again { pause: false });
        assert_eq!(tries.after(&silence), Next::Again { pause: false });
        assert_eq!(tries.after(&silence), Next::GiveUp);
    }

    #[test]
    fn a_lost_connection_costs_no_try() {
        let mut tries = tries(1);
        for _ in 0..20 {
            assert_eq!(tries.after(&Failure::Lost), Next::Again { pause: true });
        }
        assert_eq!(tries.after(&Failure::Silence { confirmed: true }), Next::GiveUp);
    }

    #[test]
    fn a_full_queue_is_tried_again_after_a_pause() {
        let mut tries = tries(2);
        assert_eq!(tries.after(&Failure::Nacked), Next::Again { pause: true });
        assert_eq!(tries.after(&Failure::Nacked), Next::GiveUp);
    }

    #[test]
    fn being_turned_away_twice_is_final() {
        let mut tries = tries(5);
        let refused = Failure::TurnedAway(closed_with(AMQPSoftError::ACCESSREFUSED, ""));
        assert_eq!(tries.after(&refused), Next::Again { pause: true });
        assert_eq!(tries.after(&refused), Next::GiveUp);
    }

    #[test]
    fn a_call_is_turned_away_over_its_own_message_alone() {
        let refused = |text| closed_with(AMQPSoftError::ACCESSREFUSED, text);
        let of = |error: &lapin::Error| turned_away(error, "roster.commands", "user.create.v1");
        assert!(of(&refused("ACCESS_REFUSED - access to exchange 'roster.commands' in vhost '/' refused")));
        assert!(!of(&refused("ACCESS_REFUSED - access to exchange 'roster.queries' in vhost '/' refused")));
        let topic =
            "ACCESS_REFUSED - access to topic 'user.create.v1' in exchange 'roster.commands' in vhost '/'";
        assert!(of(&refused(topic)));
        assert!(!of(&refused(&topic.replace("create", "delete"))));
        let user = "PRECONDITION_FAILED - user_id property set to 'ada' but authenticated user was 'bob'";
        assert!(of(&closed_with(AMQPSoftError::PRECONDITIONFAILED, user)));
        assert!(!of(&closed_with(AMQPSoftError::NOTFOUND, "NOT_FOUND - no exchange 'roster.commands'")));
    }

    #[test]
    fn deadlines_are_rfc_3339_and_never_overflow() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        assert_eq!(deadline_text(now, Duration::from_millis(1500)), "2023-11-14T22:13:21.500Z");
        assert!(!deadline_text(now, Duration::MAX).is_empty());
    }
}
