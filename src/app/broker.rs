//! Keeps the broker's sessions up: commands, what the broker parked, and queries, each on connections of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::application::judge::Judge;
use crate::config::{Settings, Topology as TopologyMode};
use crate::infrastructure::rabbitmq::{
    BrokerError, Connection, Part, Topology, connect, connect_mended, connect_to_publish, is_unreadable,
};
use crate::infrastructure::retry::Waits;
use crate::interfaces::amqp::{Dial, Intake, Lanes, Session, SessionError, answer_queries, collect_parked};
use crate::lifecycle::{Component, Health};

/// A session that lasted this long was a good one: the next try comes soon.
const GOOD: Duration = Duration::from_secs(10);
/// For a farewell to a broker that may be gone; and lapin has been seen never to answer for one that is well.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How often a session's connections are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Why a session could not begin or go on.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Broker(#[from] BrokerError),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("a connection to RabbitMQ was lost")]
    Lost,
}

impl Broken {
    /// Whether lapin could not read what the broker sent.
    fn is_unreadable(&self) -> bool {
        matches!(self, Self::Session(SessionError::Lapin(error)) if is_unreadable(error))
    }
}

/// What the sessions share.
#[derive(Clone)]
pub(super) struct Broker {
    pub url: String,
    pub namespace: String,
    pub mode: TopologyMode,
    pub judge: Arc<Judge>,
    pub tracker: TaskTracker,
    pub stop: CancellationToken,
    /// A message has come whose properties cannot be read, and would come again and again, or the broker has parked
    /// some: from now on they are mended.
    unreadable: Arc<AtomicBool>,
}

impl Broker {
    pub fn new(
        settings: &Settings,
        judge: &Arc<Judge>,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            url: settings.broker.amqp_url.expose().to_owned(),
            namespace: settings.broker.namespace.as_str().to_owned(),
            mode: settings.topology,
            judge: Arc::clone(judge),
            tracker: tracker.clone(),
            stop: stop.clone(),
            unreadable: Arc::default(),
        }
    }

    fn named(&self, part: &str) -> String {
        format!("{}.{part}", self.namespace)
    }

    /// Declares or checks the broker's objects, as often as it takes to reach it. What cannot be used at the
    /// moment is left to the session that needs it.
    ///
    /// # Errors
    /// [`BrokerError::Mismatch`] and [`BrokerError::Url`], which no waiting mends. `Ok(false)`: told to stop.
    pub async fn prepare(&self, component: &Component) -> Result<bool, BrokerError> {
        let mut waits = Waits::for_servers();
        loop {
            match self.topology(None).await {
                Ok(()) | Err(BrokerError::Unavailable { .. }) => return Ok(true),
                Err(error @ (BrokerError::Mismatch { .. } | BrokerError::Url(_))) => return Err(error),
                Err(error) => component.not_ready(error.to_string()),
            }
            if !self.pause(&mut waits).await {
                return Ok(false);
            }
        }
    }

    /// Of one part, or of all.
    async fn topology(&self, part: Option<Part>) -> Result<(), BrokerError> {
        let connection = connect(&self.url, "roster set-up").await?;
        let topology = Topology::new(self.namespace.as_str());
        let result = match self.mode {
            TopologyMode::Declare => topology.declare(&connection, part).await,
            TopologyMode::Check => topology.check(&connection, part).await,
        };
        // What lapin cannot read may have killed the process until the broker parked it.
        if part == Some(Part::Commands)
            && result.is_ok()
            && topology.parked(&connection).await? > 0
            && !self.unreadable.swap(true, Ordering::Relaxed)
        {
            tracing::info!("the broker has parked messages: what comes is mended before it is read");
        }
        // It is not needed any more, whatever the answer.
        farewell(&connection).await;
        result
    }

    /// A connection to consume on.
    async fn consuming(&self, name: &str) -> Result<Connection, BrokerError> {
        if self.unreadable.load(Ordering::Relaxed) {
            connect_mended(&self.url, name).await
        } else {
            connect(&self.url, name).await
        }
    }

    /// Runs one session after the other until it is time to stop.
    async fn supervise<F: Future<Output = Result<(), Broken>>>(
        &self,
        component: Component,
        session: impl Fn() -> F,
    ) {
        let mut waits = Waits::for_servers();
        while !self.stop.is_cancelled() {
            let begun = tokio::time::Instant::now();
            match session().await {
                Ok(()) => return,
                Err(broken) => {
                    ::metrics::counter!(crate::metrics::BROKER_RECONNECTS).increment(1);
                    if broken.is_unreadable() && !self.unreadable.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            "a message has properties that are no UTF-8; such are mended from now on"
                        );
                        waits.reset();
                    }
                    component.not_ready(broken.to_string());
                }
            }
            if begun.elapsed() > GOOD {
                waits.reset();
            }
            if !self.pause(&mut waits).await {
                return;
            }
        }
    }

    async fn pause(&self, waits: &mut Waits) -> bool {
        tokio::select! {
            () = tokio::time::sleep(waits.next_wait()) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// Consumes commands and what the broker parked.
    pub async fn commands(
        self,
        health: Health,
        intake: Intake,
        lanes: Lanes,
        sessions: watch::Sender<Option<Arc<Session>>>,
    ) {
        let component = health.component("commands");
        let run = || async {
            // A queue that was deleted meanwhile is declared again. That of the queries is not looked at: it has
            // a home node, and while that is down commands go on.
            self.topology(Some(Part::Commands)).await?;
            let consuming = self.consuming("roster commands").await?;
            let session = Session::open(consuming, dial(&self.url, "roster replies")).await?;
            sessions.send_replace(Some(Arc::clone(&session)));
            let dead = self.named("dead");
            let result = tokio::select! {
                result = async { tokio::try_join!(
                    intake.clone().run(&session, || component.ready()),
                    collect_parked(&session, &dead, &self.judge, &lanes, &self.stop),
                ) } => result.map(|_| ()).map_err(Broken::from),
                () = lost(|| {
                    session.measure();
                    session.connected()
                }) => Err(Broken::Lost),
            };
            if result.is_ok() {
                // Told to stop: what was begun is still to be answered and acknowledged.
                session.settled().await;
            }
            // What is in hand otherwise comes again on the next session; this one must not hold it any longer.
            drop(tokio::time::timeout(CLOSE_WITHIN, session.close()).await);
            result
        };
        self.supervise(component.clone(), run).await;
    }

    pub async fn queries(self, health: Health) {
        let component = health.component("queries");
        let run = || async {
            self.topology(Some(Part::Queries)).await?;
            let connection = self.consuming("roster queries").await?;
            let answering = dial(&self.url, "roster answers");
            let queue = self.named("queries");
            let (tracker, stop, ready) = (&self.tracker, &self.stop, || component.ready());
            let answer = answer_queries(&connection, answering, &queue, &self.judge, tracker, stop, ready);
            let result = tokio::select! {
                result = answer => result.map_err(Broken::from),
                () = lost(|| connection.status().connected()) => Err(Broken::Lost),
            };
            // Merely dropped, it would outlive this while the broker has not answered who consumes, and then be sent
            // queries that nobody takes.
            farewell(&connection).await;
            result
        };
        self.supervise(component.clone(), run).await;
    }
}

/// How more connections of that name are opened, to publish on.
pub(super) fn dial(url: &str, name: &'static str) -> Dial {
    let url = url.to_owned();
    Dial::new(move || {
        let url = url.clone();
        async move { connect_to_publish(&url, name).await.map_err(|error| error.to_string()) }
    })
}

/// Closes a connection, within bounds.
pub(super) async fn farewell(connection: &Connection) {
    // What comes of it is nobody's concern any more.
    drop(tokio::time::timeout(CLOSE_WITHIN, connection.close(200, "done".into())).await);
}

/// Returns once a connection is seen to be gone.
async fn lost(connected: impl Fn() -> bool) {
    while connected() {
        tokio::time::sleep(LOOK).await;
    }
}
