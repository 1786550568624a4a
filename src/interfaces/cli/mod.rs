//! The command line: one file per subcommand. A new one is its file, a variant and a line in [`run`].

mod bench;
mod caller;
mod completions;
mod dead;
mod health;
mod migrate;
mod outcome;
mod query;
mod schema;
mod screen;
mod send;
mod serve;
mod topology;
mod users;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::bench::BenchArgs;
use self::completions::CompletionsArgs;
use self::dead::DeadArgs;
use self::health::HealthArgs;
use self::migrate::MigrateArgs;
use self::query::QueryArgs;
use self::schema::SchemaArgs;
use self::send::SendArgs;
use self::topology::TopologyArgs;
use self::users::UsersArgs;
use self::watch::WatchArgs;
use crate::config::Settings;

/// User accounts behind RabbitMQ.
#[derive(Debug, Parser)]
#[command(name = "roster", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take commands and queries until told to stop
    Serve(Box<Settings>),
    /// Send a command and wait for its reply
    Send(SendArgs),
    /// Ask a query and wait for its answer
    Query(QueryArgs),
    /// Show events as they happen
    Watch(WatchArgs),
    /// List users, or show one
    Users(UsersArgs),
    /// Look at commands that failed, run them again, drop them
    Dead(DeadArgs),
    /// Apply, take back, list or add versions of the database schema
    Migrate(MigrateArgs),
    /// Declare, show or delete the objects on the broker
    Topology(TopologyArgs),
    /// Write the contract as JSON Schemas and an AsyncAPI document, or compare a folder with it
    Schema(SchemaArgs),
    /// Measure what the servers can do, with a worker of its own
    Bench(Box<BenchArgs>),
    /// Ask a running worker whether it is ready; exit code 0 if it is
    Health(HealthArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    if matches!(command, Command::Serve(_)) {
        serve::with_deep_stacks();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(format!("cannot start: {error}")),
    };
    let code = runtime.block_on(async {
        match command {
            Command::Serve(settings) => serve::run(*settings).await,
            Command::Send(args) => send::run(args).await.into(),
            Command::Query(args) => query::run(args).await.into(),
            Command::Watch(args) => watch::run(args).await.into(),
            Command::Users(args) => users::run(args).await.into(),
            Command::Dead(args) => dead::run(args).await.into(),
            Command::Migrate(args) => migrate::run(args).await,
            Command::Topology(args) => topology::run(args).await,
            Command::Schema(args) => schema::run(&args).into(),
            Command::Bench(args) => bench::run(*args).await,
            Command::Health(args) => health::run(&args).await,
            Command::Completions(args) => completions::run(&args),
        }
    });
    // What still hashes a password or looks up a host is not waited for.
    runtime.shutdown_background();
    code
}

/// Says what went wrong, on standard error; the exit code is 1.
#[expect(clippy::print_stderr, reason = "the command line speaks to people here")]
fn fail(problem: impl std::fmt::Display) -> ExitCode {
    eprintln!("roster: {problem}");
    ExitCode::FAILURE
}

/// A line on standard output; whoever stops reading it has seen enough.
fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    drop(writeln!(std::io::stdout(), "{line}"));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
