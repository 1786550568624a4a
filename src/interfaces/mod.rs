//! How Roster is spoken to.

pub mod amqp;
pub mod cli;
pub mod http;
