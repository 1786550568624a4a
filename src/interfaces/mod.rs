//! How Roster is reached: messages, HTTP for operators, and the command line.

pub mod http;
