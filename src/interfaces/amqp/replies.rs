//! Publishes replies on a connection of their own, each within a time limit.
//!
//! RabbitMQ 3.10 closes the whole connection (541) over a direct reply to a caller whose node has left the
//! cluster. So replies that went down with their connection are sent once more, one by one, and the one that does
//! it again is left out: it is nobody's any more, and the others are somebody's.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ErrorKind};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use super::dial::Dial;

/// For the broker to take and confirm a reply. After it, the reply counts as delivered: the effect stands, and a
/// resend gets the stored answer.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// How long nothing is sent to a caller over whose reply the broker closed the connection.
const SHUNNED: Duration = Duration::from_secs(10);

/// A reply on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub reply_to: String,
    pub properties: BasicProperties,
    pub body: std::sync::Arc<str>,
}

/// Where replies leave. A bad one costs the channel or the connection, never the session.
#[derive(Debug)]
pub(super) struct Replies {
    dial: Dial,
    line: RwLock<Line>,
    /// Held while replies are queued: lapin numbers a confirm and queues its frames with nothing to keep two
    /// threads from doing one in one order and the other in the other.
    turn: Mutex<()>,
    shunned: Mutex<HashMap<String, Instant>>,
    /// There is no connection to be had.
    broken: AtomicBool,
    /// The session's end: whatever is in hand then comes again on the next.
    over: CancellationToken,
}

#[derive(Debug)]
struct Line {
    /// Kept, because it closes when it is dropped.
    connection: Connection,
    channel: Channel,
}

impl Line {
    async fn open(dial: &Dial) -> Result<Self, String> {
        let connection = dial.connect().await?;
        // lapin never answers for a broker that dies before it has.
        let opening = tokio::time::timeout(CONFIRM_WITHIN, confirming(&connection)).await;
        let channel =
            opening.map_err(|_| "the broker does not answer")?.map_err(|error| error.to_string())?;
        Ok(Self { connection, channel })
    }
}

impl Replies {
    pub async fn open(dial: Dial, over: CancellationToken) -> Result<Self, String> {
        let line = RwLock::new(Line::open(&dial).await?);
        let (turn, shunned, broken) = (Mutex::new(()), Mutex::default(), AtomicBool::new(false));
        Ok(Self { dial, line, turn, shunned, broken, over })
    }

    /// `false` once replies could not be sent for want of a connection.
    pub fn connected(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Whether the broker is out of memory or disk, and takes nothing.
    pub fn blocked(&self) -> bool {
        self.line.try_read().is_ok_and(|line| line.connection.status().blocked())
    }

    /// Publishes replies and waits for their confirms. `false` where there was no connection to be had: then they
    /// may not have left, and are to be sent by the next session.
    #[must_use]
    pub async fn send(&self, mut replies: Vec<Outgoing>) -> bool {
        replies.retain(|reply| !self.is_shunned(reply));
        if replies.is_empty() {
            return true;
        }
        if !self.ready(false).await {
            return self.give_up();
        }
        let (channel, status) = {
            let line = self.line.read().await;
            (line.channel.clone(), line.connection.status().clone())
        };
        let torn = match tokio::time::timeout(CONFIRM_WITHIN, self.publish(&channel, &replies)).await {
            Ok(results) => {
                let mut torn = Vec::new();
                for (reply, result) in replies.into_iter().zip(results) {
                    match result {
                        // Of a connection that has just died, the status may not tell yet.
                        Err(error) if !error.is_amqp_soft_error() => torn.push(reply),
                        result => tally(&result),
                    }
                }
                torn
            }
            Err(_) => {
                counter!(crate::metrics::REPLIES, "result" => "timed_out").increment(1);
                tracing::warn!("the broker did not confirm replies in time");
                if status.connected() {
                    // Confirms that nobody waits for stay with their channel for as long as it lives.
                    self.ready(true).await;
                    return true;
                }
                replies
            }
        };
        torn.is_empty() || self.send_one_by_one(torn).await || self.give_up()
    }

    async fn publish(&self, channel: &Channel, replies: &[Outgoing]) -> Vec<lapin::Result<Confirmation>> {
        let mut sends: Vec<_> = replies.iter().map(|reply| Box::pin(send_on(channel, reply))).collect();
        // The first poll queues a reply's frames: all of them before any is waited for.
        let mut results: Vec<Option<lapin::Result<Confirmation>>> = poll_fn(|context| {
            let _turn = self.turn.lock();
            let first = sends.iter_mut().map(|send| match send.as_mut().poll(context) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            });
            Poll::Ready(first.collect())
        })
        .await;
        for (send, result) in sends.into_iter().zip(&mut results) {
            if result.is_none() {
                *result = Some(send.await);
            }
        }
        results.into_iter().flatten().collect()
    }

    /// On connections that nobody else has, so that it is known which reply a connection went down with.
    async fn send_one_by_one(&self, replies: Vec<Outgoing>) -> bool {
        let mut own: Option<Line> = None;
        for mut reply in replies {
            if self.is_shunned(&reply) {
                continue;
            }
            // It may have left before.
            let mut headers = reply.properties.headers().clone().unwrap_or_default();
            headers.insert("replayed".into(), AMQPValue::Boolean(true));
            reply.properties = reply.properties.with_headers(headers);
            let line = match own.take() {
                Some(line) => line,
                None => match self.another_line().await {
                    Some(line) => line,
                    None => return false,
                },
            };
            let Ok(result) = tokio::time::timeout(CONFIRM_WITHIN, send_on(&line.channel, &reply)).await
            else {
                counter!(crate::metrics::REPLIES, "result" => "timed_out").increment(1);
                continue;
            };
            match &result {
                Err(error) if is_internal(error) => self.shun(reply),
                Err(error) if error.is_amqp_soft_error() => tally(&result),
                Err(_) => return false,
                Ok(_) => {
                    tally(&result);
                    own = Some(line);
                }
            }
        }
        true
    }

    async fn another_line(&self) -> Option<Line> {
        let line = tokio::select! {
            line = Line::open(&self.dial) => line,
            () = self.over.cancelled() => return None,
        };
        line.inspect_err(|error| tracing::debug!(error, "no connection for replies")).ok()
    }

    /// Sees to a channel in place of one that is closed, or of any. `false`: there is none to be had.
    async fn ready(&self, any: bool) -> bool {
        if !any && usable(&*self.line.read().await) {
            return true;
        }
        let mut line = self.line.write().await;
        if !any && usable(&line) {
            return true;
        }
        if line.connection.status().connected() {
            match tokio::time::timeout(CONFIRM_WITHIN, confirming(&line.connection)).await {
                Ok(Ok(fresh)) => {
                    line.channel = fresh;
                    return true;
                }
                Ok(Err(error)) => tracing::debug!(%error, "no channel for replies"),
                Err(_) => tracing::debug!("no channel for replies in time"),
            }
        }
        match self.another_line().await {
            Some(another) => {
                *line = another;
                true
            }
            None => false,
        }
    }

    fn give_up(&self) -> bool {
        self.broken.store(true, Ordering::Relaxed);
        false
    }

    fn shun(&self, reply: Outgoing) {
        counter!(crate::metrics::REPLIES, "result" => "undeliverable").increment(1);
        tracing::warn!(
            "the broker closed a connection over a reply: its reply_to is forged, or the caller's node has left the cluster"
        );
        let mut shunned = self.shunned.lock();
        shunned.retain(|_, since| since.elapsed() < SHUNNED);
        shunned.insert(reply.reply_to, Instant::now());
    }

    /// Whether the broker has lately closed a connection over a reply to this caller.
    pub fn shuns(&self, reply_to: &str) -> bool {
        self.shunned.lock().get(reply_to).is_some_and(|since| since.elapsed() < SHUNNED)
    }

    fn is_shunned(&self, reply: &Outgoing) -> bool {
        let shunned = self.shuns(&reply.reply_to);
        if shunned {
            counter!(crate::metrics::REPLIES, "result" => "undeliverable").increment(1);
        }
        shunned
    }
}

fn usable(line: &Line) -> bool {
    line.connection.status().connected() && line.channel.status().connected()
}

fn tally(result: &lapin::Result<Confirmation>) {
    let result = match result {
        Ok(Confirmation::Ack(_)) => "confirmed",
        Ok(Confirmation::Nack(_)) => "refused",
        Ok(Confirmation::NotRequested) => "unknown",
        Err(error) => {
            tracing::debug!(%error, "a reply could not be published");
            "failed"
        }
    };
    counter!(crate::metrics::REPLIES, "result" => result).increment(1);
}

/// Whether the broker stumbled over what it was sent.
fn is_internal(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            matches!(error.kind(), AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR))
        }
        _ => false,
    }
}

async fn send_on(channel: &Channel, reply: &Outgoing) -> lapin::Result<Confirmation> {
    publish_on(channel, reply).await?.await
}

async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

pub(super) async fn publish_on(
    channel: &Channel,
    reply: &Outgoing,
) -> lapin::Result<impl Future<Output = lapin::Result<Confirmation>> + Send + use<>> {
    channel
        .basic_publish(
            "".into(),
            reply.reply_to.as_str().into(),
            // Never mandatory: RabbitMQ before 4.2 returns what it delivered to a direct reply-to.
            BasicPublishOptions::default(),
            reply.body.as_bytes(),
            reply.properties.clone(),
        )
        .await
}
