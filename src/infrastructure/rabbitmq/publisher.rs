//! Publishes events, each confirmed by the broker.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use parking_lot::Mutex;

use super::connection::{BrokerError, in_time};
use crate::application::dto::render;
use crate::application::ports::{NewEvent, Pending};

/// For the broker to confirm one event.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
const PERSISTENT: u8 = 2;
/// A channel is given up at the earliest after this.
const YOUNG: Duration = Duration::from_secs(1);

/// A channel that carries events alone, so that nobody else's mistake closes it.
#[derive(Debug)]
pub struct EventPublisher {
    connection: Arc<Connection>,
    /// With when it was opened.
    channel: Mutex<(Channel, Instant)>,
    exchange: ShortString,
    source: String,
    schema_base: String,
}

/// What became of an event that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Confirmed,
    /// A subscriber's queue would not take it: to be sent again.
    Refused,
    /// Nobody knows: the channel is not to be used any more.
    Unknown,
}

impl EventPublisher {
    /// # Errors
    /// [`BrokerError`]
    pub async fn open(
        connection: &Arc<Connection>,
        namespace: &str,
        schema_base: &str,
    ) -> Result<Self, BrokerError> {
        Ok(Self {
            connection: Arc::clone(connection),
            channel: Mutex::new((confirming(connection).await?, Instant::now())),
            exchange: format!("{namespace}.events").into(),
            source: format!("/{namespace}"),
            schema_base: schema_base.to_owned(),
        })
    }

    /// Goes on with another channel, unless this one is young; what is in flight is still confirmed on the old
    /// one. For a channel that refuses: of a queue whose leader was down when the channel first published to it,
    /// RabbitMQ 3.10 refuses everything on that channel until that node is back, whoever leads it now.
    ///
    /// # Errors
    /// [`BrokerError`]
    pub async fn renew(&self) -> Result<(), BrokerError> {
        if self.channel.lock().1.elapsed() < YOUNG {
            return Ok(());
        }
        let fresh = confirming(&self.connection).await?;
        *self.channel.lock() = (fresh, Instant::now());
        Ok(())
    }

    /// Hands an event to the broker, after every event that was handed over before; the future tells what became
    /// of it.
    pub fn publish(&self, event: &NewEvent) -> Pending<'static, Sent> {
        let mut properties = BasicProperties::default()
            .with_content_type("application/cloudevents+json".into())
            .with_delivery_mode(PERSISTENT)
            .with_type((&*event.kind).into())
            .with_message_id(event.id.to_string().into());
        if let Some(parent) = &event.traceparent {
            let mut headers = FieldTable::default();
            headers.insert("traceparent".into(), AMQPValue::LongString(parent.as_str().into()));
            if let Some(state) = &event.tracestate {
                headers.insert("tracestate".into(), AMQPValue::LongString(state.as_str().into()));
            }
            properties = properties.with_headers(headers);
        }
        let body = render(event, &self.source, &self.schema_base);
        let channel = self.channel.lock().0.clone();
        let (exchange, key) = (self.exchange.clone(), (&*event.kind).into());
        // In a box of its own, which goes as soon as the frames are written: thousands wait for their confirms.
        let handed = Box::pin(async move {
            let options = BasicPublishOptions::default();
            channel.basic_publish(exchange, key, options, body.as_bytes(), properties).await
        });
        let mut sent: Pending<'static, Sent> = Box::pin(async move {
            let confirmed = async { handed.await?.await };
            match tokio::time::timeout(CONFIRM_WITHIN, confirmed).await {
                Ok(Ok(Confirmation::Ack(_))) => Sent::Confirmed,
                Ok(Ok(Confirmation::Nack(_))) => Sent::Refused,
                Ok(Ok(Confirmation::NotRequested) | Err(_)) | Err(_) => Sent::Unknown,
            }
        });
        // The first poll queues the frames: now, so that the order of the calls is the order on the wire, and
        // without waiting for each frame to be written.
        match sent.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(sent) => Box::pin(std::future::ready(sent)),
            Poll::Pending => sent,
        }
    }
}

async fn confirming(connection: &Connection) -> Result<Channel, BrokerError> {
    let channel = in_time(connection.create_channel()).await?;
    in_time(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}
