//! How Roster is spoken to.

pub mod amqp;
pub mod http;
