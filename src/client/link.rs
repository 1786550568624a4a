//! Keeps one session up: when it ends, the next is opened, with growing, jittered pauses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::endpoint::Endpoint;
use super::error::Unavailable;
use super::pause::Pause;
use super::pending::Pending;
use super::session::Session;

#[derive(Debug, Clone)]
enum State {
    Up(Arc<Session>),
    Down(Option<Unavailable>),
    Closed,
}

/// A session is given up over a refusal at the earliest after this; after twice as long each time that did not help.
const YOUNG: Duration = Duration::from_secs(2);
/// Doublings of it at most.
const PATIENT: u32 = 5;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) pending: Arc<Pending>,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    /// Sessions given up over refusals since a command was taken.
    renewed: AtomicU32,
    _stop_on_drop: DropGuard,
}

impl Link {
    /// Opens the first session; its failure is the caller's to hear.
    pub(super) async fn open(endpoint: Endpoint) -> Result<Self, Unavailable> {
        let (endpoint, pending) = (Arc::new(endpoint), Arc::new(Pending::default()));
        let first = Session::open(&endpoint, Arc::clone(&pending)).await?;
        let (states, state) = watch::channel(State::Up(Arc::clone(&first)));
        let stop = CancellationToken::new();
        tokio::spawn(keep_up(first, Arc::clone(&endpoint), Arc::clone(&pending), states, stop.clone()));
        let renewed = AtomicU32::new(0);
        Ok(Self { endpoint, pending, state, renewed, _stop_on_drop: stop.clone().drop_guard(), stop })
    }

    /// The session, or the next one if it comes in time.
    pub(super) async fn session(&self, until: Instant) -> Result<Arc<Session>, Unavailable> {
        let mut state = self.state.clone();
        let found = timeout_at(until, usable(&mut state)).await;
        match found {
            Ok(session) => session,
            Err(_) => Err(match &*state.borrow() {
                State::Down(Some(reason)) => reason.clone(),
                State::Closed => Unavailable::Closed,
                State::Down(None) | State::Up(_) => Unavailable::Silent { host: self.endpoint.host() },
            }),
        }
    }

    /// As [`Link::session`], waiting for as long as it takes.
    pub(super) async fn next_session(&self) -> Result<Arc<Session>, Unavailable> {
        usable(&mut self.state.clone()).await
    }

    /// Goes on with another session after a refusal, unless this one is young or has taken a command before: of a queue whose leader was down when a
    /// channel first published to it, RabbitMQ 3.10 refuses everything on that channel until that node is back, whoever
    /// leads it now. A queue that is full refuses on any, so it is tried ever more seldom: streams are interrupted.
    pub(super) fn renew(&self, session: &Session) {
        let renewed = self.renewed.load(Ordering::Relaxed);
        let old = session.age() >= YOUNG * (1 << renewed.min(PATIENT));
        if old && !session.has_taken() && !session.is_over() {
            self.renewed.fetch_add(1, Ordering::Relaxed);
            session.end();
        }
    }

    /// The broker has taken a command.
    pub(super) fn taken(&self, session: &Session) {
        session.note_taken();
        self.renewed.store(0, Ordering::Relaxed);
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        let mut state = self.state.clone();
        // An error means that the task has ended, which is what is waited for.
        drop(state.wait_for(|state| matches!(state, State::Closed)).await);
    }
}

async fn usable(state: &mut watch::Receiver<State>) -> Result<Arc<Session>, Unavailable> {
    let ready = state
        .wait_for(|state| match state {
            State::Up(session) => !session.is_over(),
            State::Down(_) => false,
            State::Closed => true,
        })
        .await;
    match ready.as_deref() {
        Ok(State::Up(session)) => Ok(Arc::clone(session)),
        Ok(State::Down(_) | State::Closed) | Err(_) => Err(Unavailable::Closed),
    }
}

async fn keep_up(
    first: Arc<Session>,
    endpoint: Arc<Endpoint>,
    pending: Arc<Pending>,
    states: watch::Sender<State>,
    stop: CancellationToken,
) {
    let mut session = first;
    loop {
        tokio::select! {
            () = session.over() => {}
            () = stop.cancelled() => break,
        }
        states.send_replace(State::Down(None));
        tracing::debug!(cause = ?session.cause(), "connection to RabbitMQ lost");
        let old = session;
        tokio::spawn(async move { old.close().await });
        let next = tokio::select! {
            next = reopen(&endpoint, &pending, &states) => next,
            () = stop.cancelled() => {
                states.send_replace(State::Closed);
                return;
            }
        };
        session = next;
        states.send_replace(State::Up(Arc::clone(&session)));
    }
    session.close().await;
    states.send_replace(State::Closed);
}

async fn reopen(
    endpoint: &Arc<Endpoint>,
    pending: &Arc<Pending>,
    states: &watch::Sender<State>,
) -> Arc<Session> {
    let mut pause = Pause::new();
    loop {
        tokio::time::sleep(pause.next()).await;
        match Session::open(endpoint, Arc::clone(pending)).await {
            Ok(session) => return session,
            Err(reason) => {
                tracing::debug!(%reason, "RabbitMQ is still away");
                states.send_replace(State::Down(Some(reason)));
            }
        }
    }
}
