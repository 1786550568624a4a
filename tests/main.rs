//! The integration suite: starts the real `roster` binary as a child process and talks to it with
//! nothing but AMQP and SQL, against real servers (`AMQP_URL`, `DATABASE_URL`). Each test has a
//! database and a broker namespace of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why on standard error"
)]

mod support;

mod bench;
mod broker_faults;
mod broker_limits;
mod bulk;
#[cfg(feature = "failpoints")]
mod chaos;
#[cfg(feature = "failpoints")]
mod checker_bites;
mod client;
#[cfg(feature = "failpoints")]
mod clocks;
mod cluster;
mod command_line;
mod commands;
mod crashes;
mod crowd;
mod database_faults;
mod dead;
mod directory;
mod envelope;
mod events;
mod examples;
#[cfg(feature = "failpoints")]
mod failpoints;
mod identities;
mod inbox;
mod layers;
mod network;
mod postgres_faults;
mod queries;
mod schema;
mod servers;
mod unreadable;
