//! A command on its way through the lanes.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::lanes::Arrival;
use super::session::{Session, Ticket};
use crate::application::task::Task;

/// A command with what is needed to settle it.
#[derive(Debug)]
pub(super) struct Item {
    pub task: Task,
    pub handling: Handling,
}

/// What goes with a command, and is nothing to the application.
#[derive(Debug)]
pub(super) struct Handling {
    /// Of the aggregate whose commands keep their order.
    pub key: Option<u64>,
    /// `None` for a kept command, which nobody delivered.
    pub ticket: Option<Ticket>,
    pub received: Instant,
    /// How often what was prepared did not fit the state.
    pub stale: u32,
    /// Of one that has to be prepared.
    pub turn: Option<Turn>,
    /// Of a kept command: tells for how long it is in hand.
    pub _presence: Option<Arc<()>>,
}

/// A kept command that the lanes have taken.
#[derive(Debug)]
pub struct InHand(pub(super) Weak<()>);

impl InHand {
    /// Whether it is yet to be settled.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Item {
    /// Delivered by a session that is over: it comes again.
    pub fn is_stranded(&self) -> bool {
        self.handling.ticket.as_ref().is_some_and(|ticket| ticket.session.is_over())
    }

    /// The session that delivered it.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.handling.ticket.as_ref().map(|ticket| Arc::clone(&ticket.session))
    }
}

/// One more of those counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(watch::Sender<usize>);

impl Counted {
    pub fn among(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// A place in a lane, which holds back later commands with its key. However it is lost, the place is given up.
#[derive(Debug)]
pub(super) struct Turn {
    pub lane: mpsc::UnboundedSender<Arrival>,
    pub place: u64,
    /// Among those that may still come to run together.
    pub _counted: Counted,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A lane that is gone holds nobody back.
        drop(self.lane.send(Arrival::Done { place: self.place }));
    }
}
