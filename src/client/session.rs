//! One connection's life: a channel that publishes requests and takes their answers.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    ExchangeKind,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::endpoint::Endpoint;
use super::error::Unavailable;
use super::pending::{Delivered, Pending};

pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long a look at an exchange and its queue is trusted.
const ROUTE_TRUSTED: Duration = Duration::from_secs(5);
/// For such a look. A broker that is out of memory or disk keeps who asks waiting, and lapin never answers for one that
/// dies before it has.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    channel: Channel,
    turn: Mutex<()>,
    routes: tokio::sync::Mutex<HashMap<String, Instant>>,
    over: CancellationToken,
    cause: Arc<OnceLock<lapin::Error>>,
    opened: Instant,
    /// A command was taken by the broker.
    taken: AtomicBool,
}

impl Session {
    /// In a task of its own, so that a caller who no longer waits leaves no half-open connection behind.
    pub(super) async fn open(
        endpoint: &Arc<Endpoint>,
        pending: Arc<Pending>,
    ) -> Result<Arc<Self>, Unavailable> {
        let (sender, opened) = oneshot::channel();
        let (there, host) = (Arc::clone(endpoint), endpoint.host());
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) = sender.send(Self::open_for(&there, pending).await) {
                unwanted.close().await;
            }
        });
        opened.await.unwrap_or(Err(Unavailable::Silent { host }))
    }

    async fn open_for(endpoint: &Endpoint, pending: Arc<Pending>) -> Result<Arc<Self>, Unavailable> {
        let end = tokio::time::Instant::now() + CONNECT_WITHIN;
        let broken = |source| Unavailable::Broker { host: endpoint.host(), source };
        let silent = || Unavailable::Silent { host: endpoint.host() };
        // lapin's own recovery stays off: after a channel error its consumers fall silent for ever.
        let properties = ConnectionProperties::default().with_connection_name("roster client".into());
        let connecting = Connection::connect_uri(endpoint.uri.clone(), properties);
        let connection =
            tokio::time::timeout_at(end, connecting).await.map_err(|_| silent())?.map_err(broken)?;
        let refused = match tokio::time::timeout_at(end, listen(&connection)).await {
            Ok(Ok((channel, replies))) => {
                let (over, cause) = (CancellationToken::new(), Arc::new(OnceLock::new()));
                tokio::spawn(deliver(replies, pending, over.clone(), Arc::clone(&cause)));
                return Ok(Arc::new(Self {
                    connection,
                    channel,
                    turn: Mutex::new(()),
                    routes: tokio::sync::Mutex::default(),
                    over,
                    cause,
                    opened: Instant::now(),
                    taken: AtomicBool::new(false),
                }));
            }
            Ok(Err(source)) => broken(source),
            Err(_) => silent(),
        };
        // Merely dropped, it would stay open for as long as the broker owes an answer, and longer.
        let close = async move { connection.close(200, "not answered in time".into()).await };
        drop(tokio::time::timeout(CLOSE_WITHIN, close).await);
        Err(refused)
    }

    /// Returns when the connection or its channel is gone.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// What lapin said when it ended.
    pub(super) fn cause(&self) -> Option<&lapin::Error> {
        self.cause.get()
    }

    /// Gives it up: a broker that no longer confirms is taken for dead, unless it has said that it
    /// is out of memory or disk.
    pub(super) fn suspect(&self) {
        if !self.connection.status().blocked() {
            self.over.cancel();
        }
    }

    pub(super) fn note_taken(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Gives it up for another.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    pub(super) async fn close(&self) {
        self.over.cancel();
        let close = self.connection.close(200, "closed by the caller".into());
        // A peer that does not answer is left to the operating system.
        drop(tokio::time::timeout(CLOSE_WITHIN, close).await);
    }

    /// Tells at once when the exchange or its queue is missing, where a publish would end in
    /// silence. A mandatory publish would tell too, but lapin logs what is returned, body and all,
    /// and a body may hold a password. A look that is not answered tells nothing.
    pub(super) async fn check_route(
        &self,
        lane: &ShortString,
        until: tokio::time::Instant,
    ) -> Result<(), Unavailable> {
        let until = until.min(tokio::time::Instant::now() + LOOK_WITHIN);
        tokio::select! {
            found = self.find_route(lane) => found,
            () = self.over() => Ok(()),
            () = tokio::time::sleep_until(until) => Ok(()),
        }
    }

    async fn find_route(&self, lane: &ShortString) -> Result<(), Unavailable> {
        let mut routes = self.routes.lock().await;
        if routes.get(lane.as_str()).is_some_and(|at| at.elapsed() < ROUTE_TRUSTED) {
            return Ok(());
        }
        match self.look_at(lane, true).await {
            Ok(()) => {
                routes.insert(lane.as_str().to_owned(), Instant::now());
                Ok(())
            }
            Err(error) if !self.connection.status().connected() => {
                // The session is ending; the call sees that by itself and waits for the next.
                tracing::debug!(%error, "the connection ended during a look at the topology");
                Ok(())
            }
            Err(error) if is_unreachable(&error) => {
                Err(Unavailable::Unreachable { object: lane.to_string(), source: error })
            }
            Err(_) => Err(Unavailable::Missing { object: lane.to_string() }),
        }
    }

    async fn look_at(&self, name: &ShortString, queue_too: bool) -> lapin::Result<()> {
        // A channel of its own, because a missing object closes the channel that asked.
        let channel = self.connection.create_channel().await?;
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.clone(), ExchangeKind::Topic, passive, FieldTable::default()).await?;
        if queue_too {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.clone(), passive, FieldTable::default()).await?;
        }
        channel.close(200, ShortString::default()).await
    }

    /// Publishes and waits for the broker's confirm. Runs to its end once it is begun: dropping a
    /// confirm unawaited leaks it.
    pub(super) async fn publish(
        self: Arc<Self>,
        exchange: ShortString,
        routing_key: ShortString,
        body: Arc<[u8]>,
        properties: BasicProperties,
    ) -> lapin::Result<Confirmation> {
        let options = BasicPublishOptions::default();
        let mut publish = pin!(self.channel.basic_publish(exchange, routing_key, options, &body, properties));
        // lapin numbers the confirm and queues the frames in the first poll, with nothing to keep
        // two threads from doing one in one order and the other in the other.
        let first = poll_fn(|context| {
            let _turn = self.turn.lock();
            Poll::Ready(publish.as_mut().poll(context))
        });
        let confirm = match first.await {
            Poll::Ready(confirm) => confirm?,
            Poll::Pending => publish.await?,
        };
        confirm.await
    }

    /// A channel for an event stream, on the same connection.
    pub(super) async fn event_channel(
        &self,
        exchange: &ShortString,
        host: &str,
    ) -> Result<Channel, Unavailable> {
        if let Err(_missing) = self.look_at(exchange, false).await
            && self.connection.status().connected()
        {
            return Err(Unavailable::Missing { object: exchange.to_string() });
        }
        let channel = self.connection.create_channel().await;
        channel.map_err(|source| Unavailable::Broker { host: host.to_owned(), source })
    }
}

/// A channel to publish requests on, and to take their answers.
async fn listen(connection: &Connection) -> lapin::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let replies = channel
        .basic_consume(REPLY_TO.into(), ShortString::default(), options, FieldTable::default())
        .await?;
    Ok((channel, replies))
}

/// Whether a queue is there on a node that is down: "not found" too, and told from one that nobody made by the text.
fn is_unreachable(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(protocol) => protocol.get_message().as_str().contains("is down"),
        _ => false,
    }
}

/// Takes answers to their calls until the channel ends.
async fn deliver(
    mut replies: Consumer,
    pending: Arc<Pending>,
    over: CancellationToken,
    cause: Arc<OnceLock<lapin::Error>>,
) {
    loop {
        let delivery = tokio::select! {
            delivery = replies.next() => delivery,
            () = over.cancelled() => return,
        };
        match delivery {
            Some(Ok(delivery)) => {
                let properties = &delivery.properties;
                let Some(correlation_id) = properties.correlation_id().clone() else {
                    continue;
                };
                let replayed = properties
                    .headers()
                    .as_ref()
                    .and_then(|headers| headers.inner().get("replayed")?.as_bool())
                    .unwrap_or(false);
                let delivered = Delivered { body: delivery.data, replayed };
                pending.answer(correlation_id.as_str(), delivered);
            }
            Some(Err(error)) => {
                // Only the first cause matters.
                drop(cause.set(error));
                over.cancel();
                return;
            }
            None => {
                over.cancel();
                return;
            }
        }
    }
}
