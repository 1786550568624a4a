//! The command line, one file per subcommand.

mod caller;
mod outcome;
pub mod query;
mod screen;
pub mod send;
pub mod users;
pub mod watch;

pub use outcome::Outcome;
