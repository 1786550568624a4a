//! Wires the layers together: the one place that knows them all.

mod broker;
mod kept;
mod outbox;
mod postgres;
mod serve;

pub use serve::{ServeError, serve};
