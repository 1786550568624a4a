//! `roster serve`: starts every part, and stops them in order.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::broker::Broker;
use super::kept::{ForgetKept, run_kept};
use super::outbox::RelayLoop;
use super::postgres::{keep_house, watch_store};
use crate::application::batch::Runner;
use crate::application::command;
use crate::application::error::Failure;
use crate::application::judge::Judge;
use crate::application::kept::Ladder;
use crate::application::ports::Services;
use crate::application::registry::DuplicateName;
use crate::config::{HttpAddress, Settings};
use crate::infrastructure::clock::SystemClock;
use crate::infrastructure::crypto::SecretVault;
use crate::infrastructure::passwords::Argon2Passwords;
use crate::infrastructure::postgres::{
    Connections, Handover, PgFailedCommands, PgOutbox, PgReadModel, PgStore, Retention, migrations,
    partitions,
};
use crate::infrastructure::rabbitmq::BrokerError;
use crate::infrastructure::retry::BatchPatience;
use crate::interfaces::amqp::{Flow, Gate, Intake, Lanes, LanesConfig, Session};
use crate::interfaces::http::Server;
use crate::lifecycle::{Health, stop_on_signals, vital};
use crate::metrics;

/// For the relay to publish what the last commands left, after the lanes have ended.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// For the connections to Postgres to be closed in order, once nothing uses them.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why the service could not start, or ended before it was told to.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("the database could not be made ready: {0}")]
    Database(#[from] Failure),
    #[error("{0}")]
    Broker(#[from] BrokerError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error(transparent)]
    Registry(#[from] DuplicateName),
}

/// Serves until SIGTERM or Ctrl-C, then finishes what has begun within the grace.
///
/// # Errors
/// [`ServeError`]
pub async fn serve(settings: Settings) -> Result<(), ServeError> {
    let stop = stop_on_signals()?;
    let metrics = metrics::install()?;
    let health = Health::default();
    // The HTTP endpoints end last, the relay after the lanes, consuming first.
    let (relay_stop, http_stop) = (CancellationToken::new(), CancellationToken::new());
    for part in ["postgres", "commands", "queries", "relay"] {
        health.component(part).not_ready("starting");
    }
    if let HttpAddress::At(address) = &settings.http {
        let server = Server::bind(address).await?;
        if let Some(file) = &settings.http_file {
            server.announce(file).await?;
        }
        tokio::spawn(server.serve(health.clone(), metrics.clone(), http_stop.clone()));
    }

    let url = settings.database.database_url.as_secret();
    let connections = Connections::new(url, settings.lanes, settings.database_connections())?;
    let retention = Retention {
        dedupe_days: settings.dedupe_days,
        event_days: settings.event_days,
        dead_days: settings.dead_days,
    };
    tokio::select! {
        ready = prepare_database(&settings, &connections, retention, &health) => ready?,
        () = stop.cancelled() => return Ok(()),
    }

    let handover = Arc::new(Handover::default());
    let judge = Arc::new(judge(&settings, &connections)?);
    let runner = Arc::new(Runner {
        store: PgStore::new(&connections, Arc::clone(&handover), retention),
        services: judge.services.clone(),
        patience: BatchPatience,
        ladder: Ladder::new(settings.retry_delays.0.clone()),
        dedupe_days: settings.dedupe_days,
        fresh_id: Uuid::now_v7,
    });
    let outbox = Arc::new(PgOutbox::new(&connections, handover));
    let failed = Arc::new(PgFailedCommands::new(&connections));
    let (flow, gate) = (watch::Sender::new(Flow::Open), Gate::default());
    let sessions = watch::Sender::<Option<Arc<Session>>>::new(None);

    let (work, background) = (TaskTracker::new(), TaskTracker::new());
    background.spawn(metrics::upkeep(metrics.clone(), stop.clone()));
    let broker = Broker::new(&settings, &judge, &work, &stop);
    if !broker.prepare(&health.component("commands")).await? {
        return Ok(());
    }
    let forget = Arc::new(ForgetKept(Arc::clone(&failed)));
    let config = LanesConfig { lanes: to_usize(settings.lanes), batch: to_usize(settings.batch) };
    let lanes = Lanes::start(config, &runner, &gate, &sessions.subscribe(), &forget, &work, &stop);
    let intake = Intake {
        queue: format!("{}.commands", settings.broker.namespace.as_str()),
        prefetch: settings.prefetch(),
        judge: Arc::clone(&judge),
        lanes: lanes.clone(),
        flow: flow.subscribe(),
        stop: stop.clone(),
    };
    work.spawn(vital(broker.clone().commands(health.clone(), intake, lanes.clone(), sessions)));
    work.spawn(vital(broker.queries(health.clone())));
    work.spawn(vital(run_kept(failed, judge, lanes, flow.subscribe(), stop.clone())));
    let relay = tokio::spawn(vital(RelayLoop::new(&settings, &outbox, &relay_stop).run(health.clone())));
    let limit = i64::from(settings.outbox_limit);
    background.spawn(vital(watch_store(outbox, gate, flow, limit, health.clone(), stop.clone())));
    background.spawn(vital(keep_house(connections.clone(), retention, stop.clone())));
    work.close();

    stop.cancelled().await;
    let finished = tokio::time::timeout(settings.shutdown_grace, work.wait()).await.is_ok();
    relay_stop.cancel();
    // A relay that cannot end in time leaves its events in the outbox, for the next one.
    drop(tokio::time::timeout(LAST_EVENTS, relay).await);
    if finished {
        // It waits for every connection, those included that no server answers on.
        drop(tokio::time::timeout(FAREWELL, connections.close()).await);
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped with commands unfinished; they will be delivered again");
    }
    http_stop.cancel();
    Ok(())
}

async fn prepare_database(
    settings: &Settings,
    connections: &Connections,
    retention: Retention,
    health: &Health,
) -> Result<(), ServeError> {
    let component = health.component("postgres");
    component.not_ready("being prepared");
    if settings.migrate {
        migrations::up_when_there(connections).await?;
    }
    loop {
        match partitions::ensure(&connections.commands, chrono::Utc::now(), retention).await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                component.not_ready(failure.to_string());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn judge(settings: &Settings, connections: &Connections) -> Result<Judge, ServeError> {
    let source = format!("/{}", settings.broker.namespace.as_str());
    let read = PgReadModel::new(connections, source, settings.schema_base.clone());
    Ok(Judge {
        registry: command::registry()?,
        services: Services {
            passwords: Arc::new(Argon2Passwords::default()),
            read: Arc::new(read),
            vault: Arc::new(SecretVault::new(settings.secret.secret.as_secret())?),
            clock: Arc::new(SystemClock),
        },
        grants: settings.services.0.clone(),
        reply_to: settings.reply_to.clone(),
    })
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
