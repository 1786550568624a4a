//! Wires the layers together: the one place that knows them all.

pub mod bench;
mod broker;
pub mod dead;
mod kept;
pub mod migrate;
mod outbox;
mod postgres;
mod serve;
pub mod topology;

pub use serve::{ServeError, serve};
