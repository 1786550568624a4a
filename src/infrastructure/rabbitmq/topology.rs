//! The objects on the broker (CONTRACT.md §1): declared, checked, shown and deleted.

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ErrorKind, ExchangeKind};

use super::connection::{BrokerError, in_time};

/// Returns to the queue before the broker parks a command; counts healthy neighbours of a dying consumer too.
const DELIVERY_LIMIT: i32 = 20;
/// As good as none. Not -1: RabbitMQ 3.10 then drops at the first return.
const NO_DELIVERY_LIMIT: i32 = 1_000_000;
/// How long a query waits for somebody to take it, in milliseconds.
const QUERY_TTL: i32 = 30_000;

/// The names of one installation's objects.
#[derive(Debug, Clone)]
pub struct Topology {
    namespace: String,
}

/// One object, and how it should be.
#[derive(Debug, Clone)]
enum Object {
    Exchange { name: String, kind: ExchangeKind },
    Queue { name: String, arguments: FieldTable, bound_to: Option<String> },
}

/// Whether an object stands on the broker.
#[derive(Debug, Clone)]
pub struct Standing {
    pub object: String,
    /// Messages ready and consumers attached; for queues that stand.
    pub queue: Option<(u32, u32)>,
    pub stands: bool,
}

impl Topology {
    #[must_use]
    pub fn new(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into() }
    }

    fn named(&self, part: &str) -> String {
        format!("{}.{part}", self.namespace)
    }

    /// In the order of declaration: what others refer to comes first.
    fn objects(&self) -> Vec<Object> {
        let exchange = |part: &str, kind| Object::Exchange { name: self.named(part), kind };
        let mut dead = FieldTable::default();
        dead.insert("x-queue-type".into(), long("quorum"));
        dead.insert("x-delivery-limit".into(), AMQPValue::LongInt(NO_DELIVERY_LIMIT));
        dead.insert("x-overflow".into(), long("reject-publish"));
        let mut commands = FieldTable::default();
        commands.insert("x-queue-type".into(), long("quorum"));
        commands.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        commands.insert("x-dead-letter-exchange".into(), long(&self.named("dead")));
        commands.insert("x-dead-letter-strategy".into(), long("at-least-once"));
        commands.insert("x-overflow".into(), long("reject-publish"));
        let mut queries = FieldTable::default();
        queries.insert("x-message-ttl".into(), AMQPValue::LongInt(QUERY_TTL));
        let queue = |part: &str, arguments, bound_to: &str| Object::Queue {
            name: self.named(part),
            arguments,
            bound_to: Some(self.named(bound_to)),
        };
        vec![
            exchange("dead", ExchangeKind::Fanout),
            queue("dead", dead, "dead"),
            exchange("commands", ExchangeKind::Topic),
            queue("commands", commands, "commands"),
            exchange("queries", ExchangeKind::Topic),
            queue("queries", queries, "queries"),
            exchange("events", ExchangeKind::Topic),
        ]
    }

    /// Declares what is missing.
    ///
    /// # Errors
    /// [`BrokerError::Mismatch`] names the object that stands there otherwise.
    pub async fn declare(&self, connection: &Connection) -> Result<(), BrokerError> {
        self.each(connection, false).await
    }

    /// Checks that everything stands as it should, and declares nothing.
    ///
    /// # Errors
    /// [`BrokerError::Mismatch`] names the object that is missing or otherwise.
    pub async fn check(&self, connection: &Connection) -> Result<(), BrokerError> {
        self.each(connection, true).await
    }

    async fn each(&self, connection: &Connection, passive: bool) -> Result<(), BrokerError> {
        for object in self.objects() {
            // A mismatch closes the channel, so each object has its own.
            let channel = in_time(connection.create_channel()).await?;
            let label = object.label();
            declare(&channel, object, passive).await.map_err(|error| mismatch(label, error))?;
            // An error here is the channel's, which is not needed any more.
            drop(channel.close(200, "done".into()).await);
        }
        Ok(())
    }

    /// What stands on the broker.
    ///
    /// # Errors
    /// [`BrokerError`] where the broker does not answer.
    pub async fn show(&self, connection: &Connection) -> Result<Vec<Standing>, BrokerError> {
        let mut all = Vec::new();
        for object in self.objects() {
            let channel = in_time(connection.create_channel()).await?;
            let label = object.label();
            let (stands, queue) = match declare(&channel, object, true).await {
                Ok(queue) => (true, queue),
                Err(BrokerError::Lapin(error)) if is_refusal(&error) => (false, None),
                Err(error) => return Err(error),
            };
            all.push(Standing { object: label, queue, stands });
        }
        Ok(all)
    }

    /// Deletes every object, with what is in the queues.
    ///
    /// # Errors
    /// [`BrokerError`] where the broker does not answer or refuses.
    pub async fn delete(&self, connection: &Connection) -> Result<Vec<String>, BrokerError> {
        let channel = in_time(connection.create_channel()).await?;
        let mut deleted = Vec::new();
        for object in self.objects().into_iter().rev() {
            deleted.push(object.label());
            match object {
                Object::Exchange { name, .. } => {
                    in_time(channel.exchange_delete(name.into(), ExchangeDeleteOptions::default())).await?;
                }
                Object::Queue { name, .. } => {
                    in_time(channel.queue_delete(name.into(), QueueDeleteOptions::default())).await?;
                }
            }
        }
        Ok(deleted)
    }
}

impl Object {
    fn label(&self) -> String {
        match self {
            Self::Exchange { name, .. } => format!("exchange {name}"),
            Self::Queue { name, .. } => format!("queue {name}"),
        }
    }
}

async fn declare(
    channel: &lapin::Channel,
    object: Object,
    passive: bool,
) -> Result<Option<(u32, u32)>, BrokerError> {
    match object {
        Object::Exchange { name, kind } => {
            let options =
                ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
            in_time(channel.exchange_declare(name.into(), kind, options, FieldTable::default())).await?;
            Ok(None)
        }
        Object::Queue { name, arguments, bound_to } => {
            let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
            let queue = in_time(channel.queue_declare(name.as_str().into(), options, arguments)).await?;
            if let (false, Some(exchange)) = (passive, bound_to) {
                let bind = channel.queue_bind(
                    name.into(),
                    exchange.into(),
                    "#".into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                );
                in_time(bind).await?;
            }
            Ok(Some((queue.message_count(), queue.consumer_count())))
        }
    }
}

fn is_refusal(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(_))
}

fn mismatch(object: String, error: BrokerError) -> BrokerError {
    match error {
        BrokerError::Lapin(error) if is_refusal(&error) => {
            BrokerError::Mismatch { object, why: error.to_string() }
        }
        other => other,
    }
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
