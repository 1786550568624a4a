//! The objects on the broker (CONTRACT.md §1): declared, checked, shown and deleted.

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
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

/// What is used together, and fails together: a queue whose node is down must not stop those who need another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Commands, what the broker parks of them, and the exchange that their events leave by.
    Commands,
    Queries,
}

/// One object, and how it should be.
#[derive(Debug, Clone)]
enum Object {
    Exchange { name: String, kind: ExchangeKind },
    Queue { name: String, arguments: FieldTable, bound_to: Option<String> },
}

/// An object, and how it stands on the broker.
#[derive(Debug, Clone)]
pub struct Standing {
    pub object: String,
    pub state: State,
}

#[derive(Debug, Clone)]
pub enum State {
    Stands {
        /// Messages ready and consumers attached, of a queue.
        queue: Option<(u32, u32)>,
    },
    Missing,
    /// It stands on nodes that are down, or may not be looked at: why.
    Unavailable(String),
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
    fn objects(&self) -> Vec<(Part, Object)> {
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
            (Part::Commands, exchange("dead", ExchangeKind::Fanout)),
            (Part::Commands, queue("dead", dead, "dead")),
            (Part::Commands, exchange("commands", ExchangeKind::Topic)),
            (Part::Commands, queue("commands", commands, "commands")),
            (Part::Queries, exchange("queries", ExchangeKind::Topic)),
            (Part::Queries, queue("queries", queries, "queries")),
            (Part::Commands, exchange("events", ExchangeKind::Topic)),
        ]
    }

    /// Declares what is missing, of one part or, with `None`, of all.
    ///
    /// # Errors
    /// [`BrokerError::Mismatch`] names an object that stands there otherwise; [`BrokerError::Unavailable`] the
    /// first that cannot be used at the moment, where all others are as they should be.
    pub async fn declare(&self, connection: &Connection, part: Option<Part>) -> Result<(), BrokerError> {
        self.each(connection, part, false).await
    }

    /// Checks that everything stands, of one part or, with `None`, of all, and declares nothing.
    ///
    /// # Errors
    /// As [`Topology::declare`]; an object that is missing is a [`BrokerError::Mismatch`] too.
    pub async fn check(&self, connection: &Connection, part: Option<Part>) -> Result<(), BrokerError> {
        self.each(connection, part, true).await
    }

    async fn each(
        &self,
        connection: &Connection,
        part: Option<Part>,
        passive: bool,
    ) -> Result<(), BrokerError> {
        let mut unavailable = Ok(());
        for (of, object) in self.objects() {
            if part.is_some_and(|part| part != of) {
                continue;
            }
            let label = object.label();
            match on_its_own(connection, async |channel| declare(channel, object, passive).await).await {
                Ok(_) => {}
                Err(error) => match told(label, error, passive) {
                    // The others may be otherwise, which is the worse news.
                    error @ BrokerError::Unavailable { .. } => unavailable = unavailable.and(Err(error)),
                    // The connection went with what was told before.
                    BrokerError::Lapin(_) if unavailable.is_err() => return unavailable,
                    error => return Err(error),
                },
            }
        }
        unavailable
    }

    /// How many messages the broker has parked, and nobody has taken.
    ///
    /// # Errors
    /// [`BrokerError`] where the broker does not answer, or has no such queue.
    pub async fn parked(&self, connection: &Connection) -> Result<u32, BrokerError> {
        let channel = in_time(connection.create_channel()).await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = self.named("dead");
        let queue = in_time(channel.queue_declare(name.into(), options, FieldTable::default())).await?;
        Ok(queue.message_count())
    }

    /// What stands on the broker.
    ///
    /// # Errors
    /// [`BrokerError`] where the broker does not answer.
    pub async fn show(&self, connection: &Connection) -> Result<Vec<Standing>, BrokerError> {
        let mut all = Vec::new();
        for (_, object) in self.objects() {
            let label = object.label();
            let shown = on_its_own(connection, async |channel| declare(channel, object, true).await).await;
            let state = match shown {
                Ok(queue) => State::Stands { queue },
                Err(BrokerError::Lapin(error)) if is_missing(&error) => State::Missing,
                Err(error) => match told(label.clone(), error, true) {
                    BrokerError::Unavailable { why, .. } | BrokerError::Mismatch { why, .. } => {
                        State::Unavailable(why)
                    }
                    error => return Err(error),
                },
            };
            all.push(Standing { object: label, state });
        }
        Ok(all)
    }

    /// Deletes every object, with what is in the queues.
    ///
    /// # Errors
    /// [`BrokerError`] where the broker does not answer, or for the first object that it did not delete; the
    /// others are gone then.
    pub async fn delete(&self, connection: &Connection) -> Result<Vec<String>, BrokerError> {
        let mut deleted = Vec::new();
        let mut left = None;
        for (_, object) in self.objects().into_iter().rev() {
            let label = object.label();
            let gone = on_its_own(connection, async |channel| match object {
                Object::Exchange { name, .. } => {
                    in_time(channel.exchange_delete(name.into(), ExchangeDeleteOptions::default())).await
                }
                Object::Queue { name, .. } => {
                    let delete = channel.queue_delete(name.into(), QueueDeleteOptions::default());
                    in_time(delete).await.map(|_| ())
                }
            });
            match gone.await {
                Ok(()) => deleted.push(label),
                Err(error) => match told(label, error, false) {
                    error @ (BrokerError::Unavailable { .. } | BrokerError::Mismatch { .. }) => {
                        left.get_or_insert(error);
                    }
                    error => return Err(error),
                },
            }
        }
        left.map_or(Ok(deleted), Err)
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

/// On a channel of its own, which a refusal closes.
async fn on_its_own<T>(
    connection: &Connection,
    act: impl AsyncFnOnce(&lapin::Channel) -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let channel = in_time(connection.create_channel()).await?;
    let done = act(&channel).await;
    // An error here is the channel's, which is not needed any more.
    drop(in_time(channel.close(200, "done".into())).await);
    done
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

/// What the broker's answer about one object means.
fn told(object: String, error: BrokerError, passive: bool) -> BrokerError {
    let BrokerError::Lapin(refusal) = &error else { return error };
    let ErrorKind::ProtocolError(protocol) = refusal.kind() else { return error };
    let why = protocol.get_message().to_string();
    match protocol.kind() {
        // A broker that is being stopped says so to everybody.
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => error,
        // Too few nodes of a cluster to make a quorum queue on.
        AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR) => BrokerError::Unavailable { object, why },
        // A queue whose node is down is "not found" too.
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) if !passive || !is_missing(refusal) => {
            BrokerError::Unavailable { object, why }
        }
        _ => BrokerError::Mismatch { object, why },
    }
}

/// Whether the broker knows of no such object. The code says the same of a queue that cannot be reached, so this
/// goes by the text.
fn is_missing(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return false };
    let text = protocol.get_message().as_str();
    text.contains("no queue '") || text.contains("no exchange '")
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
