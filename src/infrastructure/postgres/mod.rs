//! Postgres: the store of the commands, the read model of the queries, the outbox, and what keeps them in shape.

pub mod bench;
pub mod dead_letters;
pub mod migrations;
pub mod partitions;

mod columns;
mod connections;
mod directory;
mod errors;
mod event_list;
mod failed_commands;
mod flush;
mod handover;
mod horizon;
mod loan;
mod lookups;
mod outbox;
mod read_model;
mod seen;
mod shelf;
mod store;
mod user_list;
mod users;

pub use connections::Connections;
pub use failed_commands::PgFailedCommands;
pub use handover::Handover;
pub use outbox::{PgLeader, PgOutbox};
pub use partitions::Retention;
pub use read_model::PgReadModel;
pub use store::{PgStore, PgTransaction};
