//! Watches the store: opens the gate when it answers again, and pauses consuming while it is away or the outbox
//! is too long.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use metrics::gauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::application::ports::Outbox;
use crate::infrastructure::postgres::{Connections, Retention, partitions};
use crate::interfaces::amqp::{Flow, Gate};
use crate::lifecycle::{Component, Health};

/// How often the store is looked at. Lanes find out sooner that it is away.
const LOOK: Duration = Duration::from_millis(500);
/// For one look: longer than a slow network takes, so that a store that answers is never thought away.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// How often partitions are made and dropped.
const KEEP_HOUSE: Duration = Duration::from_secs(3600);
/// After housekeeping failed.
const KEEP_HOUSE_AGAIN: Duration = Duration::from_secs(30);

/// Why commands are not taken.
const AWAY: &str = "Postgres does not answer";
const FULL: &str = "the outbox is longer than ROSTER_OUTBOX_LIMIT";

/// Looks until `stop` is cancelled.
pub(super) async fn watch_store<O: Outbox>(
    outbox: Arc<O>,
    gate: Gate,
    flow: watch::Sender<Flow>,
    outbox_limit: i64,
    health: Health,
    stop: CancellationToken,
) {
    let component = health.component("postgres");
    let mut gate_changes = gate.watch();
    loop {
        look(&*outbox, &gate, &flow, outbox_limit, &component).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK) => continue,
            // A lane found the store away: consuming pauses now.
            _ = gate_changes.wait_for(|open| !*open), if gate.is_open() => {
                flow.send_if_modified(|flow| std::mem::replace(flow, Flow::Paused(AWAY)) == Flow::Open);
                component.not_ready(AWAY);
            }
            () = stop.cancelled() => return,
        }
        // It may well answer this and refuse commands all the same: when its disk is full, say.
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn look<O: Outbox>(
    outbox: &O,
    gate: &Gate,
    flow: &watch::Sender<Flow>,
    outbox_limit: i64,
    component: &Component,
) {
    let now = match tokio::time::timeout(LOOK_WITHIN, outbox.backlog()).await {
        Ok(Ok(backlog)) => {
            #[expect(clippy::cast_precision_loss, reason = "a metric")]
            {
                gauge!(crate::metrics::OUTBOX_BATCHES).set(backlog.batches as f64);
                gauge!(crate::metrics::OUTBOX_EVENTS).set(backlog.events as f64);
            }
            gauge!(crate::metrics::OUTBOX_AGE_SECONDS).set(backlog.oldest.as_secs_f64());
            gauge!(crate::metrics::OLDEST_TRANSACTION_SECONDS).set(backlog.oldest_transaction.as_secs_f64());
            component.ready();
            gate.open();
            if backlog.events > outbox_limit { Flow::Paused(FULL) } else { Flow::Open }
        }
        Ok(Err(failure)) => {
            component.not_ready(format!("{AWAY}: {failure}"));
            gate.close();
            Flow::Paused(AWAY)
        }
        Err(_) => {
            component.not_ready(AWAY);
            gate.close();
            Flow::Paused(AWAY)
        }
    };
    flow.send_if_modified(|flow| {
        let changed = *flow != now;
        if changed {
            match &now {
                Flow::Open => tracing::info!("taking commands"),
                Flow::Paused(why) => tracing::warn!(why, "not taking commands"),
            }
            *flow = now;
        }
        changed
    });
}

/// Makes and drops partitions until `stop` is cancelled.
pub(super) async fn keep_house(connections: Connections, retention: Retention, stop: CancellationToken) {
    loop {
        let now = Utc::now();
        let kept = async {
            partitions::ensure(&connections.commands, now, retention).await?;
            partitions::sweep(&connections, now, retention).await
        };
        let next = match kept.await {
            Ok(()) => KEEP_HOUSE,
            Err(failure) => {
                tracing::warn!(%failure, "housekeeping failed; it will be tried again");
                KEEP_HOUSE_AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = stop.cancelled() => return,
        }
    }
}
