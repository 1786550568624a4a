//! A subscriber to every event of a namespace. Its queue is durable and it reconnects, so that it
//! sees what was published while it, or the broker, was away.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, Consumer, ExchangeKind};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::broker;
use super::eventually::eventually;

/// One event as it was delivered.
#[derive(Clone, Debug)]
pub struct Seen {
    pub subject: String,
    pub sequence: i64,
    pub id: String,
    pub kind: String,
    pub body: Value,
    pub routing_key: String,
    pub properties: BasicProperties,
}

#[derive(Debug)]
pub struct Subscriber {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Subscribed when it returns: every event published from here on is seen. `replicated`: with a quorum
    /// queue, which outlives a node.
    pub async fn start(url: &str, namespace: &str, queue: &str, replicated: bool) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (ready, subscribed) = oneshot::channel();
        let task = {
            let (url, namespace, queue) = (url.to_owned(), namespace.to_owned(), queue.to_owned());
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut ready = Some(ready);
                loop {
                    let _ = follow(&url, &namespace, (&queue, replicated), &seen, &mut ready).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        };
        subscribed.await.expect("a subscription");
        Self { seen, task }
    }

    /// Everything seen so far, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the list of events").clone()
    }

    /// Waits until at least `count` different events were seen; after a crash some are seen twice.
    pub async fn wait_for(&self, count: usize) -> Vec<Seen> {
        eventually(&format!("{count} events are seen"), async || {
            let seen = self.seen();
            let different: HashSet<&str> = seen.iter().map(|event| event.id.as_str()).collect();
            match different.len() {
                enough if enough >= count => Ok(seen),
                fewer => Err(format!("{fewer} so far")),
            }
        })
        .await
    }

    /// Waits until the last sequence seen of `subject` is `sequence`; gives that subject's events.
    pub async fn wait_for_sequence(&self, subject: &str, sequence: i64) -> Vec<Seen> {
        eventually(&format!("{subject} reaches {sequence}"), async || {
            let mut seen = self.seen();
            seen.retain(|event| event.subject == subject);
            match seen.iter().any(|event| event.sequence >= sequence) {
                true => Ok(seen),
                false => Err(format!("{} events of it so far", seen.len())),
            }
        })
        .await
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// For a broker to answer all that it takes to subscribe: one that dies meanwhile never does.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(5);

async fn follow(
    url: &str,
    namespace: &str,
    (queue, replicated): (&str, bool),
    seen: &Mutex<Vec<Seen>>,
    ready: &mut Option<oneshot::Sender<()>>,
) -> lapin::Result<()> {
    let connecting = broker::connect_to(url, "roster-tests subscriber");
    let Ok(connection) = tokio::time::timeout(SUBSCRIBED_WITHIN, connecting).await else { return Ok(()) };
    let connection = connection?;
    let subscribing = subscribe(&connection, namespace, (queue, replicated));
    let Ok(subscribed) = tokio::time::timeout(SUBSCRIBED_WITHIN, subscribing).await else {
        // Merely dropped, it would stay, and take events once the broker answers, for nobody.
        let closing = connection.close(200, "not answered in time".into());
        drop(tokio::time::timeout(SUBSCRIBED_WITHIN, closing).await);
        return Ok(());
    };
    let mut deliveries = subscribed?;
    if let Some(ready) = ready.take() {
        let _ = ready.send(());
    }
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let body: Value = serde_json::from_slice(&delivery.data).unwrap_or(Value::Null);
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let event = Seen {
            subject: text("subject"),
            sequence: text("sequence").parse().unwrap_or(-1),
            id: text("id"),
            kind: text("type"),
            routing_key: delivery.routing_key.to_string(),
            properties: delivery.properties.clone(),
            body,
        };
        seen.lock().expect("the list of events").push(event);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

async fn subscribe(
    connection: &Connection,
    namespace: &str,
    (queue, replicated): (&str, bool),
) -> lapin::Result<Consumer> {
    let channel = connection.create_channel().await?;
    let exchange = format!("{namespace}.events");
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, durable, none()).await?;
    let mut arguments = none();
    if replicated {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    }
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await?;
    channel
        .queue_bind(queue.into(), exchange.as_str().into(), "#".into(), QueueBindOptions::default(), none())
        .await?;
    channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), none()).await
}
