//! The names of all metrics, what they mean, and the recorder that keeps them for Prometheus.

use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// Counter by `type` (`other` for what is no command) and `outcome` (`done`, `replayed`, `refused`, `kept`, `waits`,
/// `dead`, `already_dead`).
pub const COMMANDS: &str = "roster_commands_total";
pub const COMMAND_SECONDS: &str = "roster_command_seconds";
pub const BATCH_SIZE: &str = "roster_batch_size";
pub const BATCH_SECONDS: &str = "roster_batch_seconds";
/// Counter by `code`: a refusal's, `NOBODY_ASKED`, or empty for an answer.
pub const QUERIES: &str = "roster_queries_total";
pub const QUERY_SECONDS: &str = "roster_query_seconds";
/// Counter by `result`: `confirmed`, `refused`, `unknown`, `failed`, `timed_out`, `undeliverable`.
pub const REPLIES: &str = "roster_replies_total";
pub const REPLY_TO_REFUSED: &str = "roster_reply_to_refused_total";
pub const EVENTS_PUBLISHED: &str = "roster_events_published_total";
pub const EVENTS_NACKED: &str = "roster_events_nacked_total";
pub const RELAY_LEADER: &str = "roster_relay_leader";
pub const OUTBOX_BATCHES: &str = "roster_outbox_batches";
pub const OUTBOX_EVENTS: &str = "roster_outbox_events";
pub const OUTBOX_AGE_SECONDS: &str = "roster_outbox_age_seconds";
pub const OLDEST_TRANSACTION_SECONDS: &str = "roster_oldest_transaction_seconds";
/// Gauge by `state`: `waiting`, `dead`.
pub const FAILED_COMMANDS: &str = "roster_failed_commands";
/// Of users who are not folded into the directory yet: a list looks each of them up by its id.
pub const USER_CHANGES: &str = "roster_user_changes";
pub const PARKED_MESSAGES: &str = "roster_parked_messages";
pub const BROKER_RECONNECTS: &str = "roster_broker_reconnects_total";
pub const BROKER_BLOCKED: &str = "roster_broker_blocked";
pub const CONSUMING: &str = "roster_consuming";
pub const IN_HAND: &str = "roster_commands_in_hand";
pub const PASSWORD_HASHES: &str = "roster_password_hashes_total";
pub const PASSWORD_HASH_SECONDS: &str = "roster_password_hash_seconds";
pub const BUILD_INFO: &str = "roster_build_info";

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

const DESCRIPTIONS: &[(Kind, &str, Unit, &str)] = &[
    (Counter, COMMANDS, Unit::Count, "Commands settled, by type and outcome"),
    (Histogram, COMMAND_SECONDS, Unit::Seconds, "From a command's delivery to its settling"),
    (Histogram, BATCH_SIZE, Unit::Count, "Commands in one transaction"),
    (Histogram, BATCH_SECONDS, Unit::Seconds, "One batch, from begin to commit"),
    (Counter, QUERIES, Unit::Count, "Queries, by the code of the refusal"),
    (Histogram, QUERY_SECONDS, Unit::Seconds, "From a query's delivery to its answer"),
    (Counter, REPLIES, Unit::Count, "Replies published, by what the broker said"),
    (Counter, REPLY_TO_REFUSED, Unit::Count, "Requests whose reply_to is not allowed"),
    (Counter, EVENTS_PUBLISHED, Unit::Count, "Events confirmed by the broker"),
    (Counter, EVENTS_NACKED, Unit::Count, "Events refused by the broker, to be published again"),
    (Gauge, RELAY_LEADER, Unit::Count, "1 where this process publishes the events"),
    (Gauge, OUTBOX_BATCHES, Unit::Count, "Batches whose events wait to be published"),
    (Gauge, OUTBOX_EVENTS, Unit::Count, "Events that wait to be published"),
    (Gauge, OUTBOX_AGE_SECONDS, Unit::Seconds, "Age of the oldest event that waits to be published"),
    (Gauge, OLDEST_TRANSACTION_SECONDS, Unit::Seconds, "Age of the oldest transaction in the database"),
    (Gauge, FAILED_COMMANDS, Unit::Count, "Failed commands kept, by state"),
    (Gauge, USER_CHANGES, Unit::Count, "Changes of users that are not folded into the directory yet"),
    (Gauge, PARKED_MESSAGES, Unit::Count, "Messages that wait in the dead letter queue to be kept"),
    (Counter, BROKER_RECONNECTS, Unit::Count, "Connections to the broker rebuilt"),
    (Gauge, BROKER_BLOCKED, Unit::Count, "1 while the broker blocks publishing"),
    (Gauge, CONSUMING, Unit::Count, "1 while commands are taken from the queue"),
    (Gauge, IN_HAND, Unit::Count, "Commands delivered and not yet settled"),
    (Counter, PASSWORD_HASHES, Unit::Count, "Passwords hashed or verified"),
    (Histogram, PASSWORD_HASH_SECONDS, Unit::Seconds, "One password hashed or verified, the wait included"),
    (Gauge, BUILD_INFO, Unit::Count, "1, with the version as a label"),
];

/// From half a millisecond to a minute, about five to a factor of ten.
const SECONDS: &[f64] = &[
    0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1,
    0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0,
];
const SIZES: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 192.0, 256.0, 512.0, 1024.0, 2048.0, 5000.0];

/// Starts recording. Once in a process.
///
/// # Errors
/// Where another recorder stands already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe();
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_SIZE.to_owned()), SIZES)
}

fn describe() {
    for (kind, name, unit, text) in DESCRIPTIONS {
        match kind {
            Counter => describe_counter!(*name, *unit, *text),
            Gauge => describe_gauge!(*name, *unit, *text),
            Histogram => describe_histogram!(*name, *unit, *text),
        }
    }
}

/// Folds what was recorded, every few seconds: without it histograms grow while nobody reads them.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use metrics::{histogram, with_local_recorder};

    use super::*;

    #[test]
    fn every_name_is_described_once_and_says_its_kind() {
        let names: HashSet<_> = DESCRIPTIONS.iter().map(|(_, name, ..)| name).collect();
        assert_eq!(names.len(), DESCRIPTIONS.len());
        for (kind, name, ..) in DESCRIPTIONS {
            assert_eq!(name.ends_with("_total"), matches!(kind, Counter), "{name}");
            assert!(name.starts_with("roster_"), "{name}");
        }
    }

    #[test]
    fn durations_are_histograms_with_buckets() {
        let recorder = builder().unwrap().build_recorder();
        with_local_recorder(&recorder, || {
            describe();
            histogram!(COMMAND_SECONDS).record(0.0021);
            histogram!(BATCH_SIZE).record(200.0);
        });
        let text = recorder.handle().render();
        assert!(text.contains("# HELP roster_command_seconds From"), "{text}");
        assert!(text.contains("roster_command_seconds_bucket{le=\"0.003\"} 1"), "{text}");
        assert!(text.contains("roster_batch_size_bucket{le=\"256\"} 1"), "{text}");
    }
}
