//! What `roster bench` compares the worker with: the same consumer, publishers and acknowledgements without a
//! database, and a bare server that only answers.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::{BasicProperties, Connection, Consumer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acks::Acks;
use super::replies::Outgoing;
use super::session::{Session, SessionError, consume};
use super::wire::{self, reply_properties};
use crate::application::message::{RawMessage, Trace};

/// Deliveries that are passed on together, as a lane's batch is.
const RUN: usize = 256;

/// As long as the worker's own.
const REPLY: &str = concat!(
    r#"{"data":{"id":"01900000-0000-7000-8000-000000000000","email":"user1234@bench.example.com","#,
    r#""name":"Bench User 1234","role":"user","version":2,"created_at":"2026-11-21T09:30:00.123456Z","#,
    r#""updated_at":"2026-11-21T09:30:00.123456Z"}}"#,
);

/// Publishes the event of each command, confirmed.
pub trait Emit: Send + Sync + 'static {
    /// Returns once every event is confirmed.
    fn emit(&self, commands: &[RawMessage]) -> impl Future<Output = ()> + Send;
}

/// Consumes `queue` until `stop` is cancelled: for each command an event and a reply, both confirmed, then its
/// acknowledgement.
///
/// # Errors
/// [`SessionError`]: the session is over.
pub async fn pass_through<E: Emit>(
    session: Arc<Session>,
    queue: &str,
    prefetch: u16,
    emit: Arc<E>,
    stop: &CancellationToken,
) -> Result<(), SessionError> {
    let channel = session.channel().await?;
    let acks = Acks::new(channel.clone());
    let mut consumer = consume(&channel, queue, prefetch).await?;
    let begun = TaskTracker::new();
    loop {
        let run = tokio::select! {
            run = next_run(&mut consumer) => run?,
            () = stop.cancelled() => break,
        };
        if run.is_empty() {
            return Err(SessionError::Cancelled(queue.to_owned()));
        }
        let (session, acks, emit) = (Arc::clone(&session), acks.clone(), Arc::clone(&emit));
        begun.spawn(async move { pass(run, &session, &acks, &*emit).await });
    }
    // What was answered is still to be acknowledged.
    begun.close();
    begun.wait().await;
    session.close().await;
    Ok(())
}

/// What is there, at least one; none at the stream's end.
async fn next_run(consumer: &mut Consumer) -> Result<Vec<Delivery>, SessionError> {
    let mut run = Vec::new();
    if let Some(first) = consumer.next().await {
        run.push(first?);
        while run.len() < RUN {
            let Some(Some(next)) = consumer.next().now_or_never() else { break };
            run.push(next?);
        }
    }
    Ok(run)
}

async fn pass<E: Emit>(run: Vec<Delivery>, session: &Session, acks: &Acks, emit: &E) {
    let tags = run.iter().map(|delivery| delivery.delivery_tag).collect();
    let commands: Vec<RawMessage> = run.into_iter().map(|mut delivery| wire::raw(&mut delivery)).collect();
    let replies = commands.iter().filter_map(reply).collect();
    tokio::join!(emit.emit(&commands), session.replies.send(replies));
    acks.settle(tags).await;
}

fn reply(command: &RawMessage) -> Option<Outgoing> {
    let properties = &command.properties;
    let correlation_id = properties.correlation_id.as_deref().or(properties.message_id.as_deref());
    Some(Outgoing {
        reply_to: properties.reply_to.clone()?,
        properties: reply_properties(correlation_id, &Trace::read(properties), false),
        body: REPLY.into(),
    })
}

/// Consumes `queue` until `stop` is cancelled, and sends each message's body back to whoever asks; nothing else.
///
/// # Errors
/// [`SessionError`]: the connection is to be opened anew.
pub async fn answer_at_once(
    connection: &Connection,
    queue: &str,
    prefetch: u16,
    stop: &CancellationToken,
) -> Result<(), SessionError> {
    let channel = connection.create_channel().await?;
    let mut consumer = consume(&channel, queue, prefetch).await?;
    loop {
        let delivery = tokio::select! {
            Some(delivery) = consumer.next() => delivery?,
            () = stop.cancelled() => return Ok(()),
            else => return Err(SessionError::Cancelled(queue.to_owned())),
        };
        let asked = &delivery.properties;
        if let Some(reply_to) = asked.reply_to().clone() {
            let id = asked.correlation_id().clone().or_else(|| asked.message_id().clone());
            let properties = id.map_or_else(BasicProperties::default, |id| {
                BasicProperties::default().with_correlation_id(id)
            });
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), reply_to, options, &delivery.data, properties).await?;
        }
        channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
    }
}
