//! Connections to the broker: bounded in time, with a heartbeat, never recovered by lapin itself.
//!
//! lapin's recovery can hang for ever after a channel-level close, so whoever holds a connection starts over.

use std::time::Duration;

use lapin::runtime::default_runtime;
use lapin::tcp::AMQPUriTcpExt as _;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use thiserror::Error;

use super::detour;
use crate::config::ipv6_host;

/// For a connection to stand, and for a declaration to be answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// Noticed within twice this: a broker that is gone without a word.
const HEARTBEAT_SECONDS: u16 = 10;
/// The longest frame, in bytes, on connections that only publish. lapin keeps 64 frames' room for each connection
/// (`FRAMES_STORAGE`, both ways), all of it resident: with the broker's 128 KiB, 8 MiB. What consumes needs them, because
/// headers come in one frame, whatever its size.
const PUBLISHING_FRAME: u32 = 16 * 1024;

/// What went wrong with the broker. Holds no credentials.
#[derive(Debug, Error)]
pub enum BrokerError {
    #[error("AMQP_URL cannot be read: {0}")]
    Url(String),
    #[error("RabbitMQ did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("RabbitMQ: {0}")]
    Lapin(#[from] lapin::Error),
    /// No waiting mends it.
    #[error("{object} on the broker is not as Roster needs it: {why}")]
    Mismatch { object: String, why: String },
    /// It stands, and comes back with the nodes that hold it.
    #[error("{object} cannot be used at the moment: {why}")]
    Unavailable { object: String, why: String },
}

/// Opens a connection that shows as `name` in the broker's lists.
///
/// # Errors
/// [`BrokerError::Url`], [`BrokerError::Silent`] or what lapin says.
pub async fn connect(url: &str, name: &str) -> Result<Connection, BrokerError> {
    open(address(url)?, name).await
}

/// As [`connect`], to publish on: nothing long is to be consumed there.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to_publish(url: &str, name: &str) -> Result<Connection, BrokerError> {
    let mut uri = address(url)?;
    uri.query.frame_max.get_or_insert(PUBLISHING_FRAME);
    open(uri, name).await
}

fn address(url: &str) -> Result<AMQPUri, BrokerError> {
    let mut uri: AMQPUri = url.parse().map_err(BrokerError::Url)?;
    if let Some(host) = ipv6_host(url) {
        host.clone_into(&mut uri.authority.host);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

async fn open(uri: AMQPUri, name: &str) -> Result<Connection, BrokerError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    in_time(Connection::connect_uri(uri, properties)).await
}

/// As [`connect`], for a broker that sends what lapin cannot read: through a `detour` that mends it.
///
/// # Errors
/// As [`connect`].
pub async fn connect_mended(url: &str, name: &str) -> Result<Connection, BrokerError> {
    let uri = address(url)?;
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = Connection::connector(
        uri,
        default_runtime()?,
        async |uri, runtime| {
            let there = uri.connect_async(&runtime).await.map_err(lapin::Error::from)?;
            let near = detour::to(there).await.map_err(lapin::Error::from)?;
            AsyncTcpStream::connect(&runtime, vec![near]).await.map_err(lapin::Error::from)
        },
        properties,
    );
    in_time(connecting).await
}

/// Whether an error is that of a message that lapin cannot read. Whoever consumes it meets it again on each connection.
#[must_use]
pub fn is_unreadable(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ParsingError(_))
}

/// Bounds a call to the broker in time.
///
/// # Errors
/// [`BrokerError::Silent`] or what lapin says.
pub async fn in_time<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(BrokerError::Silent),
    }
}
