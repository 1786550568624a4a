//! Roster keeps user accounts and is spoken to over RabbitMQ: commands come in on a queue, run
//! transactionally against Postgres, and come out as domain events and replies.

pub mod app;
pub mod application;
pub mod client;
pub mod config;
pub mod domain;
pub mod failpoint;
pub mod infrastructure;
pub mod interfaces;
pub mod lifecycle;
pub mod metrics;
pub mod telemetry;
