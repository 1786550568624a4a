//! Roster.
pub mod client;
