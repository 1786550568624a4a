//! The service as a whole: which of its parts are ready, and how it is told to stop.

use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use parking_lot::RwLock;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Which parts are ready. Cheap to clone; all clones are one registry.
#[derive(Debug, Clone, Default)]
pub struct Health {
    parts: Arc<RwLock<BTreeMap<&'static str, State>>>,
}

/// One part's state, as `/readyz` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Ready,
    /// The reason is for people, and never holds credentials.
    NotReady {
        reason: String,
    },
}

/// All parts at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Whether every part is.
    pub ready: bool,
    pub components: BTreeMap<&'static str, State>,
}

impl Health {
    /// Adds a part, not ready until it says so. The same name again is the same part.
    #[must_use]
    pub fn component(&self, name: &'static str) -> Component {
        let starting = State::NotReady { reason: "starting".to_owned() };
        self.parts.write().entry(name).or_insert(starting);
        Component { name, health: self.clone() }
    }

    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let components = self.parts.read().clone();
        Snapshot { ready: components.values().all(|state| *state == State::Ready), components }
    }
}

/// The hand of one part on the registry. A change of state is logged here, once.
#[derive(Debug, Clone)]
pub struct Component {
    name: &'static str,
    health: Health,
}

impl Component {
    pub fn ready(&self) {
        if self.set(State::Ready) {
            tracing::info!(component = self.name, "ready");
        }
    }

    pub fn not_ready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.set(State::NotReady { reason: reason.clone() }) {
            tracing::warn!(component = self.name, reason, "not ready");
        }
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health.parts.read().get(self.name) == Some(&State::Ready)
    }

    /// Whether that was news.
    fn set(&self, state: State) -> bool {
        let mut parts = self.health.parts.write();
        let news = parts.get(self.name) != Some(&state);
        parts.insert(self.name, state);
        news
    }
}

/// What the process exits with when a part of it has panicked: `EX_SOFTWARE` of sysexits.h.
const PANICKED: i32 = 70;

/// A part of the service without which the rest would only seem to go on. Where it panics, the process ends, and what
/// was in hand comes again to the next one: alone, where a message is what ends it, and in the end as a dead letter.
pub async fn vital<T>(part: impl Future<Output = T>) -> T {
    match AssertUnwindSafe(part).catch_unwind().await {
        Ok(output) => output,
        Err(_) => {
            tracing::error!("a part of the service has panicked: the process ends");
            std::process::exit(PANICKED)
        }
    }
}

/// A token that SIGTERM or Ctrl-C cancels: finish what has begun, then exit. A second signal exits at once,
/// with 143 or 130, as a shell would report it.
///
/// # Errors
/// Where the signals cannot be listened to.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(listen(terminate, interrupt, stop.clone()));
    Ok(stop)
}

async fn listen(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    loop {
        let (signal, code) = tokio::select! {
            _ = terminate.recv() => ("SIGTERM", 143),
            _ = interrupt.recv() => ("SIGINT", 130),
        };
        if stop.is_cancelled() {
            tracing::warn!(signal, "second signal: exiting at once");
            std::process::exit(code);
        }
        tracing::info!(signal, "stopping: finishing what has begun");
        stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_parts_must_be_ready() {
        let health = Health::default();
        let (postgres, rabbitmq) = (health.component("postgres"), health.component("rabbitmq"));
        postgres.ready();
        rabbitmq.not_ready("connection refused");
        let snapshot = health.snapshot();
        assert!(!snapshot.ready);
        assert_eq!(
            serde_json::to_value(&snapshot).unwrap(),
            json!({ "ready": false, "components": {
                "postgres": { "state": "ready" },
                "rabbitmq": { "state": "not_ready", "reason": "connection refused" },
            }})
        );
        rabbitmq.ready();
        assert!(health.snapshot().ready && rabbitmq.is_ready());
    }

    #[test]
    fn a_part_starts_not_ready() {
        let health = Health::default();
        assert!(health.snapshot().ready);
        let part = health.component("postgres");
        assert!(!part.is_ready() && !health.snapshot().ready);
    }
}
