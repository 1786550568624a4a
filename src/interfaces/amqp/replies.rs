//! Publishes replies on a channel of their own, each within a time limit.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::RwLock;

/// For the broker to take and confirm a reply. After it, the reply counts as delivered: the effect stands, and a
/// resend gets the stored answer.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

/// A reply on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub reply_to: String,
    pub properties: BasicProperties,
    pub body: std::sync::Arc<str>,
}

/// Where replies leave. A bad one costs the channel, never the connection.
#[derive(Debug)]
pub(super) struct Replies {
    connection: Connection,
    channel: RwLock<Channel>,
    /// Held while replies are queued: lapin numbers a confirm and queues its frames with nothing to keep two
    /// threads from doing one in one order and the other in the other.
    turn: Mutex<()>,
}

impl Replies {
    pub async fn open(connection: Connection) -> lapin::Result<Self> {
        let channel = RwLock::new(confirming(&connection).await?);
        Ok(Self { connection, channel, turn: Mutex::new(()) })
    }

    pub fn connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Publishes replies and waits for their confirms. `false` where the connection broke meanwhile: then they
    /// may not have left, and are to be sent by the next.
    #[must_use]
    pub async fn send(&self, replies: Vec<Outgoing>) -> bool {
        if replies.is_empty() {
            return true;
        }
        match tokio::time::timeout(CONFIRM_WITHIN, self.publish(&replies)).await {
            Ok(results) => {
                let mut all = true;
                for result in results {
                    all &= result.is_ok();
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
                all || self.connected()
            }
            Err(_) => {
                counter!(crate::metrics::REPLIES, "result" => "timed_out").increment(1);
                tracing::warn!("the broker did not confirm replies in time");
                // Confirms that nobody waits for stay with their channel for as long as it lives.
                self.renew(true).await;
                self.connected()
            }
        }
    }

    async fn publish(&self, replies: &[Outgoing]) -> Vec<lapin::Result<Confirmation>> {
        if !self.channel.read().await.status().connected() {
            self.renew(false).await;
        }
        let channel = self.channel.read().await.clone();
        let mut sends: Vec<_> = replies.iter().map(|reply| Box::pin(send_on(&channel, reply))).collect();
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

    /// Opens another channel in place of one that is closed, or of any.
    async fn renew(&self, any: bool) {
        let mut channel = self.channel.write().await;
        if !any && channel.status().connected() {
            return;
        }
        match tokio::time::timeout(CONFIRM_WITHIN, confirming(&self.connection)).await {
            Ok(Ok(fresh)) => *channel = fresh,
            // The session's supervisor sees to a connection that is gone.
            Ok(Err(error)) => tracing::debug!(%error, "no channel for replies"),
            Err(_) => tracing::debug!("no channel for replies in time"),
        }
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
