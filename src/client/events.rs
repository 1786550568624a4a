//! Domain events as a stream that survives reconnects, drops repeats and tells gaps.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::error::{BadReply, Error, Unavailable};
use super::link::Link;
use super::pause::Pause;
use super::sequence::{Place, Sequences, sees_all};
use super::session::Session;

/// Events held for a subscriber that is slower than the broker; the rest waits there.
const AHEAD: u16 = 256;
/// For the broker to open a subscription.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Something that happened to a user or a session (a CloudEvent).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// The event's own id; the same when it is published twice.
    pub id: String,
    /// Such as `user.created.v1`.
    pub kind: String,
    /// The id of the user or session it happened to.
    pub subject: String,
    /// When.
    pub time: DateTime<Utc>,
    /// Its place among the subject's events: 1, 2, 3 …
    pub sequence: u64,
    /// The `message_id` of the command that caused it.
    pub causation_id: Option<String>,
    /// The `correlation_id` of that command.
    pub correlation_id: Option<String>,
    /// Who did it: `user:<id>`, `service:<name>` or `anonymous`.
    pub actor: Option<String>,
    /// W3C Trace Context.
    pub traceparent: Option<String>,
    /// What is particular to this kind; an empty object where nothing is.
    pub data: serde_json::Value,
    body: Vec<u8>,
}

#[derive(Deserialize)]
struct CloudEvent {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    subject: String,
    time: DateTime<Utc>,
    sequence: String,
    #[serde(default)]
    causationid: Option<String>,
    #[serde(default)]
    correlationid: Option<String>,
    #[serde(default)]
    actor: Option<String>,
    #[serde(default)]
    traceparent: Option<String>,
    #[serde(default)]
    data: serde_json::Value,
}

impl Event {
    /// Reads an event as it is published or listed.
    ///
    /// # Errors
    /// When it is not an event of this contract.
    pub fn from_json(body: Vec<u8>) -> Result<Self, BadReply> {
        let event: CloudEvent = serde_json::from_slice(&body)?;
        Ok(Self {
            sequence: event.sequence.parse().map_err(|_| BadReply::Sequence)?,
            id: event.id,
            kind: event.kind,
            subject: event.subject,
            time: event.time,
            causation_id: event.causationid,
            correlation_id: event.correlationid,
            actor: event.actor,
            traceparent: event.traceparent,
            data: event.data,
            body,
        })
    }

    /// The event's bytes as they came: one JSON object.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.body
    }

    /// `data` as a type of yours.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.data)
    }
}

/// Events of one user or session that a stream did not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Whose events.
    pub subject: String,
    /// The first missing sequence.
    pub expected: u64,
    /// The sequence that came instead; the missing ones end before it.
    pub found: u64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.found.saturating_sub(1);
        write!(f, "{} {}–{last}", self.subject, self.expected)
    }
}

/// The stream that [`Client::events`](super::Client::events) gives. It ends when the client is
/// closed; dropping it ends the subscription.
#[derive(Debug)]
pub struct Events {
    items: mpsc::Receiver<Result<Event, Error>>,
}

impl Events {
    /// The next event; the same as `StreamExt::next`, without the import.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        self.items.recv().await
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(context)
    }
}

/// Subscribes; when this returns, every event from now on reaches the stream.
pub(super) async fn subscribe(link: Arc<Link>, pattern: ShortString) -> Result<Events, Error> {
    let session = link.next_session().await?;
    let first = Subscription::open(&link, session, &pattern).await?;
    let (sender, items) = mpsc::channel(usize::from(AHEAD));
    let follower = Follower { seen: Sequences::default(), tells_gaps: sees_all(pattern.as_str()), sender };
    tokio::spawn(follow(link, pattern, first, follower));
    Ok(Events { items })
}

struct Subscription {
    session: Arc<Session>,
    deliveries: Consumer,
}

impl Subscription {
    async fn open(link: &Link, session: Arc<Session>, pattern: &ShortString) -> Result<Self, Unavailable> {
        let exchange = link.endpoint.events();
        let host = link.endpoint.host();
        let opening = async {
            let channel = session.event_channel(&exchange, &host).await?;
            let consuming = Self::consume(&channel, exchange.clone(), pattern.clone()).await;
            consuming.map_err(|source| Unavailable::Broker { host: host.clone(), source })
        };
        // lapin never answers for a broker that dies before it has.
        let deliveries = tokio::select! {
            opened = tokio::time::timeout(OPEN_WITHIN, opening) => opened,
            () = session.over() => return Err(Unavailable::Silent { host }),
        };
        let Ok(deliveries) = deliveries else {
            // With what may have come to stand of it: a queue that nobody consumes.
            session.end();
            return Err(Unavailable::Silent { host });
        };
        Ok(Self { session, deliveries: deliveries? })
    }

    async fn consume(
        channel: &Channel,
        exchange: ShortString,
        pattern: ShortString,
    ) -> lapin::Result<Consumer> {
        let table = FieldTable::default;
        let own =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(ShortString::default(), own, table()).await?;
        let queue = queue.name().clone();
        channel.queue_bind(queue.clone(), exchange, pattern, QueueBindOptions::default(), table()).await?;
        // Before consuming: lapin's own buffer has no bound.
        channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        channel.basic_consume(queue, ShortString::default(), options, table()).await
    }
}

struct Follower {
    seen: Sequences,
    tells_gaps: bool,
    sender: mpsc::Sender<Result<Event, Error>>,
}

/// The subscriber has let go of the stream.
struct Gone;

impl Follower {
    async fn take(&mut self, body: Vec<u8>) -> Result<(), Gone> {
        let event = match Event::from_json(body) {
            Ok(event) => event,
            Err(problem) => return self.hand_over(Err(Error::BadEvent(problem))).await,
        };
        match self.seen.place(&event.subject, event.sequence) {
            Place::Repeat => return Ok(()),
            Place::After(gap) if self.tells_gaps => self.hand_over(Err(Error::Gap(gap))).await?,
            Place::After(_) | Place::Next => {}
        }
        self.hand_over(Ok(event)).await
    }

    async fn hand_over(&self, item: Result<Event, Error>) -> Result<(), Gone> {
        self.sender.send(item).await.map_err(|_| Gone)
    }

    /// Tries until it succeeds; says once if the exchange has gone. None when the client is closed.
    async fn resubscribe(&self, link: &Link, pattern: &ShortString) -> Option<Subscription> {
        let mut pause = Pause::new();
        let mut told = false;
        loop {
            let session = link.next_session().await.ok()?;
            match Subscription::open(link, session, pattern).await {
                Ok(subscription) => return Some(subscription),
                Err(reason @ Unavailable::Missing { .. }) if !told => {
                    told = true;
                    self.hand_over(Err(reason.into())).await.ok()?;
                }
                Err(reason) => tracing::debug!(%reason, "cannot subscribe again yet"),
            }
            tokio::time::sleep(pause.next()).await;
        }
    }
}

async fn follow(link: Arc<Link>, pattern: ShortString, first: Subscription, mut follower: Follower) {
    let mut subscription = first;
    loop {
        // Dropping a subscription closes its channel. Closing it here would wait for ever where the
        // connection is ending.
        if drain(&mut subscription, &mut follower).await.is_err() {
            return;
        }
        subscription = tokio::select! {
            next = follower.resubscribe(&link, &pattern) => match next {
                Some(next) => next,
                None => return,
            },
            () = follower.sender.closed() => return,
        };
        if follower.hand_over(Err(Error::Interrupted)).await.is_err() {
            return;
        }
    }
}

/// Hands events over until the channel ends or the subscriber lets go.
async fn drain(subscription: &mut Subscription, follower: &mut Follower) -> Result<(), Gone> {
    loop {
        let delivery = tokio::select! {
            delivery = subscription.deliveries.next() => delivery,
            () = subscription.session.over() => return Ok(()),
            () = follower.sender.closed() => return Err(Gone),
        };
        let Some(Ok(delivery)) = delivery else {
            return Ok(());
        };
        let acker = delivery.acker;
        follower.take(delivery.data).await?;
        // A failed ack means that the channel is gone, which the next delivery tells.
        drop(acker.ack(BasicAckOptions::default()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATED: &str = r#"{"specversion":"1.0","id":"e1","source":"/roster",
        "type":"user.created.v1","subject":"u1","time":"2026-11-21T09:30:00.123Z",
        "sequence":"0000000000000000012","actor":"anonymous","data":{"email":"ada@example.com"}}"#;

    #[test]
    fn an_event_is_read_and_kept_as_it_came() {
        let event = Event::from_json(CREATED.as_bytes().to_vec()).unwrap();
        assert_eq!((event.sequence, event.kind.as_str()), (12, "user.created.v1"));
        assert_eq!(event.data, serde_json::json!({"email": "ada@example.com"}));
        assert_eq!(event.causation_id, None);
        assert_eq!(event.json(), CREATED.as_bytes());
    }

    #[test]
    fn a_sequence_that_is_no_number_is_told() {
        let body = CREATED.replace("0000000000000000012", "twelve");
        assert!(matches!(Event::from_json(body.into_bytes()), Err(BadReply::Sequence)));
    }

    #[tokio::test]
    async fn a_follower_drops_repeats_and_tells_gaps_before_the_event() {
        let (sender, mut items) = mpsc::channel(16);
        let mut follower = Follower { seen: Sequences::default(), tells_gaps: true, sender };
        for sequence in ["1", "1", "2", "5"] {
            let body = CREATED.replace("0000000000000000012", sequence).into_bytes();
            assert!(follower.take(body).await.is_ok());
        }
        drop(follower);
        let mut seen = Vec::new();
        while let Some(item) = items.recv().await {
            seen.push(match item {
                Ok(event) => event.sequence.to_string(),
                Err(error) => error.to_string(),
            });
        }
        assert_eq!(seen, ["1", "2", "events missing: u1 3–4", "5"]);
    }
}
