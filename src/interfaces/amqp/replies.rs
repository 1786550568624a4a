//! Publishes replies on a channel of their own, each within a time limit.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use metrics::counter;
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
}

impl Replies {
    pub async fn open(connection: Connection) -> lapin::Result<Self> {
        let channel = RwLock::new(confirming(&connection).await?);
        Ok(Self { connection, channel })
    }

    pub fn connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Publishes replies and waits for their confirms.
    pub async fn send(&self, replies: Vec<Outgoing>) {
        if replies.is_empty() {
            return;
        }
        let sent = async {
            let mut confirms = Vec::with_capacity(replies.len());
            for reply in &replies {
                match self.publish(reply).await {
                    Ok(confirm) => confirms.push(confirm),
                    Err(error) => {
                        counter!(crate::metrics::REPLIES, "result" => "failed").increment(1);
                        tracing::warn!(%error, "a reply could not be published");
                    }
                }
            }
            for confirmation in join_all(confirms).await {
                let result = match confirmation {
                    Ok(Confirmation::Ack(_)) => "confirmed",
                    Ok(Confirmation::Nack(_)) => "refused",
                    Ok(Confirmation::NotRequested) | Err(_) => "unknown",
                };
                counter!(crate::metrics::REPLIES, "result" => result).increment(1);
            }
        };
        if tokio::time::timeout(CONFIRM_WITHIN, sent).await.is_err() {
            counter!(crate::metrics::REPLIES, "result" => "timed_out").increment(1);
            tracing::warn!("the broker did not confirm replies in time");
        }
    }

    async fn publish(
        &self,
        reply: &Outgoing,
    ) -> lapin::Result<impl Future<Output = lapin::Result<Confirmation>> + Send + use<>> {
        let first = publish_on(&*self.channel.read().await, reply).await;
        match first {
            Ok(confirm) => Ok(confirm),
            Err(_) => {
                let mut channel = self.channel.write().await;
                if !channel.status().connected() {
                    *channel = confirming(&self.connection).await?;
                }
                publish_on(&channel, reply).await
            }
        }
    }
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
