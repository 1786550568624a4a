//! A caller with raw AMQP: one channel with publisher confirms and a direct reply-to consumer,
//! many requests in flight, replies told apart by correlation id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, PublisherConfirm};
use serde_json::Value;
use tokio::sync::Notify;

use super::request::{Reply, Request, Way};
use super::{PATIENCE, broker};

#[derive(Debug, Default)]
struct Replies {
    by_correlation: Mutex<HashMap<String, Vec<Reply>>>,
    arrived: Notify,
}

#[derive(Debug)]
pub struct Caller {
    namespace: String,
    user: Option<String>,
    pub connection: Connection,
    pub channel: Channel,
    replies: Arc<Replies>,
}

impl Caller {
    pub async fn connect(url: &str, namespace: &str, user: Option<String>) -> Self {
        let caller = Self::try_connect(url, namespace, user).await;
        caller.expect("the tests need RabbitMQ at AMQP_URL")
    }

    /// For tests in which the broker may be away, or stands behind a proxy.
    pub async fn try_connect(url: &str, namespace: &str, user: Option<String>) -> lapin::Result<Self> {
        let connection = broker::connect_to(url, "roster-tests caller").await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut deliveries = channel
            .basic_consume("amq.rabbitmq.reply-to".into(), "".into(), options, FieldTable::default())
            .await?;
        let replies = Arc::new(Replies::default());
        let sink = Arc::clone(&replies);
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = deliveries.next().await {
                let reply = Reply::new(&delivery.properties, &delivery.data);
                let key = reply.correlation_id.clone().unwrap_or_default();
                let mut replies = sink.by_correlation.lock().expect("replies");
                replies.entry(key).or_default().push(reply);
                drop(replies);
                sink.arrived.notify_waiters();
            }
        });
        Ok(Self { namespace: namespace.to_owned(), user, connection, channel, replies })
    }

    /// A proper request of this caller: [`Request::new`] with this caller's identity.
    pub fn request(&self, kind: &str, body: Value) -> Request {
        Request::new(kind, body).user(self.user.clone())
    }

    /// Sends a proper request and waits for its reply.
    pub async fn ask(&self, kind: &str, body: Value) -> Reply {
        self.ask_with(&self.request(kind, body)).await
    }

    /// Sends any request and waits for its reply.
    pub async fn ask_with(&self, request: &Request) -> Reply {
        self.send(request).await;
        self.reply(request).await
    }

    /// Sends all, then waits for all; the replies stand in the order of the requests.
    pub async fn ask_all(&self, requests: &[Request]) -> Vec<Reply> {
        let mut confirms = Vec::with_capacity(requests.len());
        for request in requests {
            confirms.push(self.publish(request).await.expect("a publish"));
        }
        for confirm in confirms {
            assert!(confirm.await.expect("a confirm").is_ack(), "not confirmed");
        }
        let mut replies = Vec::with_capacity(requests.len());
        for request in requests {
            replies.push(self.reply(request).await);
        }
        replies
    }

    /// Sends and waits for the broker's confirm.
    pub async fn send(&self, request: &Request) {
        let confirm = self.publish(request).await.expect("a publish");
        assert!(confirm.await.expect("a confirm").is_ack(), "not confirmed");
    }

    /// Sends; the confirm is the caller's to wait for.
    pub async fn publish(&self, request: &Request) -> lapin::Result<PublisherConfirm> {
        let way = match request.way {
            Way::Command => "commands",
            Way::Query => "queries",
        };
        self.channel
            .basic_publish(
                format!("{}.{way}", self.namespace).into(),
                request.kind.as_deref().unwrap_or("none").into(),
                BasicPublishOptions::default(),
                &request.body,
                request.properties(),
            )
            .await
    }

    /// The first reply to a request, waited for and taken.
    pub async fn reply(&self, request: &Request) -> Reply {
        let key = request.correlation_key();
        match self.reply_within(&key, PATIENCE).await {
            Some(reply) => reply,
            None => panic!("no reply to {:?} in {PATIENCE:?}", request.kind),
        }
    }

    /// Takes the first reply with a correlation id, if one comes in time.
    pub async fn reply_within(&self, correlation: &str, limit: Duration) -> Option<Reply> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let arrived = self.replies.arrived.notified();
            if let Some(reply) = self.take(correlation) {
                return Some(reply);
            }
            if tokio::time::timeout_at(end, arrived).await.is_err() {
                return self.take(correlation);
            }
        }
    }

    /// Every reply that has come in and was not taken.
    pub fn drain(&self) -> Vec<Reply> {
        let mut replies = self.replies.by_correlation.lock().expect("replies");
        replies.drain().flat_map(|(_, replies)| replies).collect()
    }

    fn take(&self, correlation: &str) -> Option<Reply> {
        let mut replies = self.replies.by_correlation.lock().expect("replies");
        let waiting = replies.get_mut(correlation)?;
        match waiting.is_empty() {
            true => None,
            false => Some(waiting.remove(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::ExchangeKind;
    use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
    use lapin::types::AMQPValue;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    /// Answers every command of a namespace with its own body, latest first.
    async fn answer_backwards(namespace: &str, count: usize) -> Connection {
        let connection = broker::connect("roster-tests echo").await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let queue = format!("{namespace}.commands");
        let none = FieldTable::default;
        let declare = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), declare, none()).await.unwrap();
        let exchange = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
        let topic = ExchangeKind::Topic;
        channel.exchange_declare(queue.as_str().into(), topic, exchange, none()).await.unwrap();
        let bind = QueueBindOptions::default();
        let name = || queue.as_str().into();
        channel.queue_bind(name(), name(), "#".into(), bind, none()).await.unwrap();
        let consume = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut deliveries = channel.basic_consume(name(), "".into(), consume, none()).await.unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Some(Ok(delivery)) = deliveries.next().await {
                held.push(delivery);
                if held.len() < count {
                    continue;
                }
                while let Some(delivery) = held.pop() {
                    let mut headers = FieldTable::default();
                    headers.insert("replayed".into(), AMQPValue::Boolean(false));
                    let properties = lapin::BasicProperties::default()
                        .with_correlation_id(delivery.properties.correlation_id().clone().unwrap())
                        .with_headers(headers);
                    let reply_to = delivery.properties.reply_to().clone().unwrap();
                    let options = BasicPublishOptions::default();
                    let publish =
                        channel.basic_publish("".into(), reply_to, options, &delivery.data, properties);
                    publish.await.unwrap().await.unwrap();
                }
            }
        });
        connection
    }

    #[tokio::test]
    async fn each_request_gets_its_own_reply_in_whatever_order_they_come() {
        let namespace = format!("t{}", Uuid::new_v4().simple());
        let _echo = answer_backwards(&namespace, 20).await;
        let caller = Caller::connect(&broker::url(), &namespace, Some(broker::user())).await;
        let requests: Vec<Request> = (0..20).map(|n| caller.request("echo", json!({ "data": n }))).collect();
        let replies = caller.ask_all(&requests).await;
        for (n, reply) in replies.iter().enumerate() {
            assert_eq!((reply.data(), reply.replayed), (&json!(n), Some(false)));
        }
        assert!(caller.drain().is_empty());
        assert_eq!(caller.reply_within("nobody", Duration::from_millis(50)).await, None);
        broker::delete(&broker::url(), &namespace, &[]).await.unwrap();
    }
}
