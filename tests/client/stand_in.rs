//! A stand-in for the worker that does as it is told: stays silent, answers twice, counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ExchangeKind};
use uuid::Uuid;

use crate::support::broker;

/// A request as the stand-in got it.
#[derive(Clone, Debug)]
pub struct Got {
    pub properties: BasicProperties,
    pub body: String,
    /// How often this `message_id` came, this time included.
    pub times: usize,
}

impl Got {
    pub fn message_id(&self) -> String {
        text(self.properties.message_id())
    }

    pub fn kind(&self) -> String {
        text(self.properties.kind())
    }

    pub fn user(&self) -> String {
        text(self.properties.user_id())
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.properties.headers().as_ref()?;
        let value = headers.inner().get(name)?.as_long_string()?;
        Some(value.to_string())
    }
}

fn text(property: &Option<lapin::types::ShortString>) -> String {
    property.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// The replies to send to a request: none, one or more, each with its `replayed`.
pub type Script = Box<dyn Fn(&Got) -> Vec<(String, bool)> + Send>;

pub struct StandIn {
    pub namespace: String,
    _connection: Connection,
    channel: Channel,
    got: Arc<Mutex<Vec<Got>>>,
}

impl StandIn {
    async fn open() -> Self {
        let namespace = format!("t{}", Uuid::new_v4().simple());
        let connection = broker::connect("roster-tests stand-in").await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { namespace, _connection: connection, channel, got: Arc::default() }
    }

    pub async fn start(script: Script) -> Self {
        let stand_in = Self::open().await;
        stand_in.exchange("events").await;
        stand_in.keep("events").await;
        for lane in ["commands", "queries"] {
            stand_in.exchange(lane).await;
            stand_in.queue(lane, FieldTable::default()).await;
        }
        stand_in.serve(script).await;
        stand_in
    }

    /// One whose queue of commands takes nothing; [`broker::delete`] deletes it.
    pub async fn full() -> Self {
        let stand_in = Self::open().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        stand_in.exchange("commands").await;
        stand_in.queue("commands", arguments).await;
        stand_in
    }

    fn object(&self, name: &str) -> lapin::types::ShortString {
        format!("{}.{name}", self.namespace).into()
    }

    async fn exchange(&self, name: &str) {
        let options = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
        let declare = self.channel.exchange_declare(
            self.object(name),
            ExchangeKind::Topic,
            options,
            FieldTable::default(),
        );
        declare.await.unwrap();
    }

    /// Deletes itself, and with it its exchange, when the stand-in is gone.
    async fn queue(&self, name: &str, arguments: FieldTable) {
        let object = self.object(name);
        let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(object.clone(), options, arguments).await.unwrap();
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bind = self.channel.queue_bind(object.clone(), object, "#".into(), options, none);
        bind.await.unwrap();
    }

    /// Holds an exchange that nobody else is bound to.
    async fn keep(&self, exchange: &str) {
        let table = FieldTable::default;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare("".into(), options, table()).await.unwrap();
        let (queue, options) = (queue.name().clone(), QueueBindOptions::default());
        let bind = self.channel.queue_bind(queue, self.object(exchange), "nothing".into(), options, table());
        bind.await.unwrap();
    }

    async fn serve(&self, script: Script) {
        let script = Arc::new(Mutex::new(script));
        let times: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        for lane in ["commands", "queries"] {
            let consume = self.channel.basic_consume(
                self.object(lane),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let mut deliveries = consume.await.unwrap();
            let (script, times) = (Arc::clone(&script), Arc::clone(&times));
            let (channel, list) = (self.channel.clone(), Arc::clone(&self.got));
            tokio::spawn(async move {
                while let Some(Ok(delivery)) = deliveries.next().await {
                    let id = text(delivery.properties.message_id());
                    let seen = {
                        let mut times = times.lock().unwrap();
                        let seen = times.entry(id).or_insert(0);
                        *seen += 1;
                        *seen
                    };
                    let got = Got {
                        properties: delivery.properties.clone(),
                        body: String::from_utf8_lossy(&delivery.data).into_owned(),
                        times: seen,
                    };
                    let replies = script.lock().unwrap()(&got);
                    list.lock().unwrap().push(got);
                    for (body, replayed) in replies {
                        reply(&channel, &delivery.properties, &body, replayed).await;
                    }
                    let _ = delivery.acker.ack(BasicAckOptions::default()).await;
                }
            });
        }
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Publishes an event of this sequence.
    pub async fn announce(&self, subject: &str, sequence: u64) {
        let event = event(subject, sequence);
        let publish = self.channel.basic_publish(
            self.object("events"),
            "user.renamed.v1".into(),
            BasicPublishOptions::default(),
            event.as_bytes(),
            BasicProperties::default(),
        );
        publish.await.unwrap();
    }
}

pub fn event(subject: &str, sequence: u64) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{}","source":"/roster","type":"user.renamed.v1",
            "subject":"{subject}","time":"2026-11-21T09:30:00.123Z","sequence":"{sequence:019}",
            "actor":"anonymous","data":{{"name":"Ada"}}}}"#,
        Uuid::now_v7()
    )
}

async fn reply(channel: &Channel, request: &BasicProperties, body: &str, replayed: bool) {
    let mut headers = FieldTable::default();
    headers.insert("replayed".into(), AMQPValue::Boolean(replayed));
    let mut properties = BasicProperties::default().with_headers(headers);
    if let Some(id) = request.correlation_id() {
        properties = properties.with_correlation_id(id.clone());
    }
    let reply_to = request.reply_to().clone().unwrap();
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish("".into(), reply_to, options, body.as_bytes(), properties);
    publish.await.unwrap();
}
