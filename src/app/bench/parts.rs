//! The stand-ins for the worker, each run by a child process: the pipe and the bare servers.

use std::sync::Arc;

use chrono::Utc;
use clap::ValueEnum;
use futures_util::future::join_all;
use parking_lot::Mutex;
use uuid::Uuid;

use super::BenchError;
use crate::app::broker::dial;
use crate::application::message::RawMessage;
use crate::application::ports::NewEvent;
use crate::config::BrokerArgs;
use crate::infrastructure::rabbitmq::{EventPublisher, Sent, connect, connect_to_publish};
use crate::interfaces::amqp::{Emit, Session, answer_at_once, pass_through};
use crate::lifecycle::stop_on_signals;

/// As derived from the default lanes and batch.
const PREFETCH: u16 = 2000;
const ECHO_PREFETCH: u16 = 256;

/// What a child stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The worker without a database
    Pipe,
    /// A bare server of the queue of commands
    EchoCommands,
    /// A bare server of the queue of queries
    EchoQueries,
}

impl Part {
    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pipe => "pipe",
            Self::EchoCommands => "echo-commands",
            Self::EchoQueries => "echo-queries",
        }
    }
}

/// Plays a part until SIGTERM.
///
/// # Errors
/// [`BenchError`]
pub async fn act(part: Part, broker: &BrokerArgs) -> Result<(), BenchError> {
    let stop = stop_on_signals()?;
    let (url, namespace) = (broker.amqp_url.expose(), broker.namespace.as_str());
    let connection = connect(url, "roster bench").await?;
    match part {
        Part::Pipe => {
            // Kept until the end: a connection closes when it is dropped.
            let publishing = Arc::new(connect_to_publish(url, "roster bench events").await?);
            let publisher = EventPublisher::open(&publishing, namespace, "urn:roster:schema:").await?;
            let events = Arc::new(Events { publisher, turn: Mutex::new(()) });
            let session = Session::open(connection, dial(url, "roster bench replies")).await?;
            let queue = format!("{namespace}.commands");
            pass_through(session, &queue, PREFETCH, events, &stop).await?;
        }
        Part::EchoCommands => {
            answer_at_once(&connection, &format!("{namespace}.commands"), ECHO_PREFETCH, &stop).await?;
        }
        Part::EchoQueries => {
            answer_at_once(&connection, &format!("{namespace}.queries"), ECHO_PREFETCH, &stop).await?;
        }
    }
    Ok(())
}

/// The relay's publisher, without the relay.
#[derive(Debug)]
struct Events {
    publisher: EventPublisher,
    /// As the relay is one, and replies take turns: a confirm is numbered before its frames are queued.
    turn: Mutex<()>,
}

impl Emit for Events {
    async fn emit(&self, commands: &[RawMessage]) {
        let confirms = {
            let _turn = self.turn.lock();
            let publish = |command| self.publisher.publish(&event(command));
            commands.iter().map(publish).collect::<Vec<_>>()
        };
        if join_all(confirms).await.iter().any(|sent| *sent != Sent::Confirmed) {
            tracing::error!("an event of the pipe was not confirmed");
        }
    }
}

fn event(command: &RawMessage) -> NewEvent {
    let id = command.properties.message_id.as_deref().and_then(|id| Uuid::try_parse(id).ok());
    NewEvent {
        id: Uuid::now_v7(),
        subject: id.unwrap_or_default(),
        sequence: 2,
        kind: "user.renamed.v1".into(),
        data: r#"{"name":"Bench User 1234"}"#.to_owned(),
        occurred_at: Utc::now(),
        causation_id: id.unwrap_or_default(),
        correlation_id: None,
        actor: "service:guest".to_owned(),
        traceparent: None,
        tracestate: None,
    }
}
