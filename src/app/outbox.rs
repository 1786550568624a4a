//! Keeps the relay going: one of all workers leads the outbox, the others stand by.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio_util::sync::CancellationToken;

use super::broker::farewell;
use crate::application::ports::Outbox;
use crate::config::Settings;
use crate::infrastructure::rabbitmq::{BrokerError, EventPublisher, connect_to_publish};
use crate::infrastructure::relay::{TermEnd, serve_term};
use crate::infrastructure::retry::Waits;
use crate::lifecycle::{Component, Health};

/// Between tries to become the leader while another worker is it.
const LEAD_AGAIN: Duration = Duration::from_millis(1_000);

pub(super) struct RelayLoop<O> {
    outbox: Arc<O>,
    url: String,
    namespace: String,
    schema_base: String,
    stop: CancellationToken,
}

impl<O: Outbox> RelayLoop<O> {
    pub fn new(settings: &Settings, outbox: &Arc<O>, stop: &CancellationToken) -> Self {
        Self {
            outbox: Arc::clone(outbox),
            url: settings.broker.amqp_url.expose().to_owned(),
            namespace: settings.broker.namespace.as_str().to_owned(),
            schema_base: settings.schema_base.clone(),
            stop: stop.clone(),
        }
    }

    pub async fn run(self, health: Health) {
        let component = health.component("relay");
        let mut waits = Waits::for_servers();
        while !self.stop.is_cancelled() {
            match self.at_the_broker(&component, &mut waits).await {
                Ok(()) => return,
                Err(error) => component.not_ready(error.to_string()),
            }
            gauge!(crate::metrics::RELAY_LEADER).set(0.0);
            tokio::select! {
                () = tokio::time::sleep(waits.next_wait()) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn at_the_broker(&self, component: &Component, waits: &mut Waits) -> Result<(), TermEnd> {
        let connection = Arc::new(connect_to_publish(&self.url, "roster events").await?);
        while !self.stop.is_cancelled() {
            if !connection.status().connected() {
                return Err(BrokerError::Silent.into());
            }
            let Some(mut leader) = self.outbox.lead().await? else {
                // Another worker publishes.
                component.ready();
                gauge!(crate::metrics::RELAY_LEADER).set(0.0);
                tokio::select! {
                    () = tokio::time::sleep(LEAD_AGAIN) => {}
                    () = self.stop.cancelled() => {}
                }
                continue;
            };
            let publisher = EventPublisher::open(&connection, &self.namespace, &self.schema_base).await?;
            component.ready();
            waits.reset();
            gauge!(crate::metrics::RELAY_LEADER).set(1.0);
            serve_term(&*self.outbox, &mut leader, &publisher, &self.stop).await?;
        }
        // What follows is the end of the process.
        farewell(&connection).await;
        Ok(())
    }
}
