//! The callers' and subscribers' side of `roster bench`: commands in, replies and events counted and timed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::connection::{BrokerError, in_time};

const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";
/// Commands published and not yet confirmed, at most.
const WINDOW: usize = 1000;
/// Events handed to the subscriber ahead of their ack, and how many it acknowledges in one go.
const EVENTS_AHEAD: u16 = 1000;
const EVENTS_PER_ACK: u32 = 200;

/// A command or a query to be sent.
#[derive(Debug)]
pub struct Request {
    pub kind: &'static str,
    pub message_id: Uuid,
    pub body: String,
}

/// What came back, and when.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub at: Instant,
    pub refused: bool,
}

/// Counts what arrives. The span is from the first to the last.
#[derive(Debug, Default)]
pub struct Tally {
    count: AtomicU64,
    refused: AtomicU64,
    span: Mutex<Option<(Instant, Instant)>>,
}

impl Tally {
    fn note(&self, at: Instant, refused: bool) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.refused.fetch_add(u64::from(refused), Ordering::Relaxed);
        let mut span = self.span.lock();
        *span = Some((span.map_or(at, |(first, _)| first), at));
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn span(&self) -> Option<(Instant, Instant)> {
        *self.span.lock()
    }
}

type Waiting = Arc<Mutex<HashMap<Uuid, oneshot::Sender<Answer>>>>;

/// Sends requests and takes their direct replies, on one channel.
#[derive(Debug)]
pub struct Caller {
    channel: Channel,
    exchange: String,
    user: String,
    persistent: bool,
    waiting: Waiting,
    /// The replies that nobody waits for one by one.
    pub replies: Arc<Tally>,
    receiver: AbortHandle,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl Caller {
    /// Commands, persistent and confirmed, go to `<namespace>.commands`; queries to `<namespace>.queries`.
    ///
    /// # Errors
    /// [`BrokerError`]
    pub async fn open(
        connection: &Connection,
        namespace: &str,
        user: &str,
        commands: bool,
    ) -> Result<Self, BrokerError> {
        let channel = in_time(connection.create_channel()).await?;
        if commands {
            in_time(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        }
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consume = channel.basic_consume(DIRECT_REPLY.into(), "".into(), options, FieldTable::default());
        let consumer = in_time(consume).await?;
        let (waiting, replies) = (Waiting::default(), Arc::<Tally>::default());
        let receiver = tokio::spawn(receive(consumer, Arc::clone(&waiting), Arc::clone(&replies)));
        let part = if commands { "commands" } else { "queries" };
        Ok(Self {
            channel,
            exchange: format!("{namespace}.{part}"),
            user: user.to_owned(),
            persistent: commands,
            waiting,
            replies,
            receiver: receiver.abort_handle(),
        })
    }

    async fn publish(
        &self,
        request: &Request,
    ) -> Result<impl Future<Output = lapin::Result<Confirmation>> + Send + use<>, BrokerError> {
        let properties = BasicProperties::default()
            .with_type(request.kind.into())
            .with_message_id(request.message_id.to_string().into())
            .with_reply_to(DIRECT_REPLY.into())
            .with_user_id(self.user.as_str().into())
            .with_content_type("application/json".into())
            .with_delivery_mode(if self.persistent { 2 } else { 1 });
        let publish = self.channel.basic_publish(
            self.exchange.as_str().into(),
            request.kind.into(),
            BasicPublishOptions::default(),
            request.body.as_bytes(),
            properties,
        );
        Ok(publish.await?)
    }

    /// Publishes a backlog, confirmed; its replies are counted in [`replies`](Self::replies).
    ///
    /// # Errors
    /// [`BrokerError`], also where the broker would not take a command.
    pub async fn publish_all(
        &self,
        requests: impl Iterator<Item = Request>,
        mut progress: impl FnMut(u64),
    ) -> Result<(), BrokerError> {
        let mut window = VecDeque::with_capacity(WINDOW);
        let mut sent = 0;
        for request in requests {
            window.push_back(self.publish(&request).await?);
            sent += 1;
            if window.len() >= WINDOW {
                progress(sent);
                if let Some(confirm) = window.pop_front() {
                    self.taken(in_time(confirm).await?)?;
                }
            }
        }
        for confirm in window {
            self.taken(in_time(confirm).await?)?;
        }
        progress(sent);
        Ok(())
    }

    fn taken(&self, confirmation: Confirmation) -> Result<(), BrokerError> {
        match confirmation {
            Confirmation::Ack(_) => Ok(()),
            _ => Err(BrokerError::Mismatch {
                object: format!("exchange {}", self.exchange),
                why: "a command was not taken".into(),
            }),
        }
    }

    /// Sends one request; what is given back resolves with its answer.
    ///
    /// # Errors
    /// [`BrokerError`]
    pub async fn call(&self, request: &Request) -> Result<oneshot::Receiver<Answer>, BrokerError> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(request.message_id, sender);
        let confirm = self.publish(request).await?;
        if self.persistent {
            tokio::spawn(confirm);
        }
        Ok(receiver)
    }
}

async fn receive(mut consumer: Consumer, waiting: Waiting, replies: Arc<Tally>) {
    while let Some(Ok(delivery)) = consumer.next().await {
        let answer = Answer { at: Instant::now(), refused: delivery.data.starts_with(br#"{"error""#) };
        let mut waiting = waiting.lock();
        let caller = if waiting.is_empty() {
            None
        } else {
            let id = delivery.properties.correlation_id().as_ref();
            id.and_then(|id| Uuid::try_parse(id.as_str()).ok()).and_then(|id| waiting.remove(&id))
        };
        match caller {
            // Whoever gave up waiting does not count the answer either.
            Some(sender) => drop(sender.send(answer)),
            None => replies.note(answer.at, answer.refused),
        }
    }
}

/// A subscriber with a durable quorum queue bound to all events; it drains and acknowledges them.
#[derive(Debug)]
pub struct Subscriber {
    pub events: Arc<Tally>,
    receiver: AbortHandle,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl Subscriber {
    /// # Errors
    /// [`BrokerError`]
    pub async fn open(connection: &Connection, namespace: &str) -> Result<Self, BrokerError> {
        let channel = in_time(connection.create_channel()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let queue = subscriber_queue(namespace);
        in_time(channel.queue_declare(queue.as_str().into(), options, arguments)).await?;
        let bind = channel.queue_bind(
            queue.as_str().into(),
            format!("{namespace}.events").into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        in_time(bind).await?;
        in_time(channel.basic_qos(EVENTS_AHEAD, BasicQosOptions::default())).await?;
        let consume = channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = in_time(consume).await?;
        let events = Arc::<Tally>::default();
        let receiver = tokio::spawn(subscribe(channel, consumer, Arc::clone(&events)));
        Ok(Self { events, receiver: receiver.abort_handle() })
    }
}

async fn subscribe(channel: Channel, mut consumer: Consumer, events: Arc<Tally>) {
    let mut unacknowledged = 0;
    while let Some(Ok(delivery)) = consumer.next().await {
        let mut next = Some(delivery);
        while let Some(delivery) = next {
            events.note(Instant::now(), false);
            unacknowledged += 1;
            next = consumer.next().now_or_never().flatten().and_then(Result::ok);
            if next.is_none() || unacknowledged >= EVENTS_PER_ACK {
                unacknowledged = 0;
                let all = BasicAckOptions { multiple: true };
                if channel.basic_ack(delivery.delivery_tag, all).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn subscriber_queue(namespace: &str) -> String {
    format!("{namespace}.events.subscriber")
}

/// Deletes the subscriber's queue, whether it stands or not.
///
/// # Errors
/// [`BrokerError`]
pub async fn delete_subscriber(connection: &Connection, namespace: &str) -> Result<(), BrokerError> {
    let channel = in_time(connection.create_channel()).await?;
    let queue = subscriber_queue(namespace);
    in_time(channel.queue_delete(queue.into(), QueueDeleteOptions::default())).await?;
    Ok(())
}

/// How many messages are ready in a queue.
///
/// # Errors
/// [`BrokerError`]
pub async fn ready(connection: &Connection, queue: &str) -> Result<u32, BrokerError> {
    let channel = in_time(connection.create_channel()).await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = in_time(channel.queue_declare(queue.into(), options, FieldTable::default())).await?;
    Ok(queue.message_count())
}

/// Throws away what is ready in a queue.
///
/// # Errors
/// [`BrokerError`]
pub async fn purge(connection: &Connection, queue: &str) -> Result<(), BrokerError> {
    let channel = in_time(connection.create_channel()).await?;
    in_time(channel.queue_purge(queue.into(), QueuePurgeOptions::default())).await?;
    Ok(())
}

/// The user in the URL, whom the broker knows the connection by.
///
/// # Errors
/// [`BrokerError::Url`]
pub fn user_of(url: &str) -> Result<String, BrokerError> {
    let uri: AMQPUri = url.parse().map_err(BrokerError::Url)?;
    Ok(uri.authority.userinfo.username)
}
