//! What Roster does, without saying how: commands, queries, and one batch in one transaction,
//! written over ports.

pub mod actor;
pub mod batch;
pub mod command;
pub mod dead_letter;
pub mod decide;
pub mod dto;
mod envelope;
pub mod error;
pub mod fields;
pub mod json;
pub mod judge;
pub mod kept;
pub mod message;
pub mod password;
pub mod ports;
pub mod query;
pub mod registry;
mod reply_patterns;
pub mod schema;
pub mod task;
pub mod workspace;
