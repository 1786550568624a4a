//! What `roster topology` does.

use crate::config::BrokerArgs;
use crate::infrastructure::rabbitmq::{BrokerError, Connection, Standing, State, Topology, connect};

/// # Errors
/// [`BrokerError`]
pub async fn declare(broker: &BrokerArgs) -> Result<Vec<String>, BrokerError> {
    let (connection, topology) = open(broker).await?;
    topology.declare(&connection, None).await?;
    Ok(vec!["everything stands".into()])
}

/// A line for each object.
///
/// # Errors
/// [`BrokerError`]
pub async fn show(broker: &BrokerArgs) -> Result<Vec<String>, BrokerError> {
    let (connection, topology) = open(broker).await?;
    let standing = topology.show(&connection).await?;
    let line = |Standing { object, state }| match state {
        State::Missing => format!("{object}: missing"),
        State::Unavailable(why) => format!("{object}: cannot be used at the moment: {why}"),
        State::Stands { queue: None } => format!("{object}: stands"),
        State::Stands { queue: Some((messages, consumers)) } => {
            format!("{object}: stands, {messages} messages ready, {consumers} consumers")
        }
    };
    Ok(standing.into_iter().map(line).collect())
}

/// # Errors
/// [`BrokerError`]
pub async fn delete(broker: &BrokerArgs) -> Result<Vec<String>, BrokerError> {
    let (connection, topology) = open(broker).await?;
    let deleted = topology.delete(&connection).await?;
    Ok(deleted.into_iter().map(|object| format!("{object}: deleted")).collect())
}

async fn open(broker: &BrokerArgs) -> Result<(Connection, Topology), BrokerError> {
    let connection = connect(broker.amqp_url.expose(), "roster topology").await?;
    Ok((connection, Topology::new(broker.namespace.as_str())))
}
