//! The broker as the tests see it: its address, who they are on it, the objects of a namespace.

use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

/// The broker's address.
pub fn url() -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// The name in the URL, which is the only `user_id` the broker lets us set.
pub fn user() -> String {
    user_in(&url())
}

/// The name in any URL.
pub fn user_in(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.split_once('@') {
        Some((credentials, _)) => credentials.split(':').next().unwrap_or("guest").to_owned(),
        None => "guest".to_owned(),
    }
}

/// `url` with host and port replaced, to lead through a proxy.
pub fn through(url: &str, address: std::net::SocketAddr) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL with a scheme");
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    match authority.rsplit_once('@') {
        Some((credentials, _)) => format!("{scheme}://{credentials}@{address}{path}"),
        None => format!("{scheme}://{address}{path}"),
    }
}

/// Host and port of a URL, with the scheme's usual port where none is written.
pub fn address(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL with a scheme");
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.contains(':') {
        true => host.to_owned(),
        false if scheme.starts_with("amqp") => format!("{host}:5672"),
        false => format!("{host}:5432"),
    }
}

pub async fn connect(name: &str) -> lapin::Result<Connection> {
    connect_to(&url(), name).await
}

pub async fn connect_to(url: &str, name: &str) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Connection::connect(url, properties).await
}

/// How many messages are ready in a queue and how many consumers it has; `None` where there is
/// no such queue.
pub async fn depth(connection: &Connection, queue: &str) -> Option<(u32, u32)> {
    let channel = connection.create_channel().await.ok()?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let state = channel.queue_declare(queue.into(), options, FieldTable::default()).await.ok()?;
    let _ = channel.close(200, "done".into()).await;
    Some((state.message_count(), state.consumer_count()))
}

/// Deletes whatever stands of a namespace, and the queues named beside it.
pub async fn delete(url: &str, namespace: &str, queues: &[String]) -> Result<(), String> {
    let connection = connect_to(url, "roster-tests cleanup").await;
    let connection = connection.map_err(|error| error.to_string())?;
    let own = ["commands", "queries", "dead"].map(|queue| format!("{namespace}.{queue}"));
    for queue in own.iter().chain(queues) {
        let channel = connection.create_channel().await;
        let channel = channel.map_err(|error| error.to_string())?;
        let _ = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
    }
    for exchange in ["commands", "queries", "events", "dead"] {
        let channel = connection.create_channel().await;
        let channel = channel.map_err(|error| error.to_string())?;
        let exchange = format!("{namespace}.{exchange}");
        let _ = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await;
    }
    let _ = connection.close(200, "done".into()).await;
    Ok(())
}

#[test]
fn a_url_is_led_through_a_proxy() {
    let proxy: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
    assert_eq!(
        through("amqp://a:b@host:5672/%2f?heartbeat=5", proxy),
        "amqp://a:b@127.0.0.1:9/%2f?heartbeat=5"
    );
    assert_eq!(through("postgres://host/db", proxy), "postgres://127.0.0.1:9/db");
    assert_eq!(address("postgres://p@host/db"), "host:5432");
    assert_eq!(address("amqp://a:b@host:1/%2f"), "host:1");
}
