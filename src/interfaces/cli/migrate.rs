//! `roster migrate`: the schema's versions, up and down.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{fail, say};
use crate::app;
use crate::config::DatabaseArgs;

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Apply every version that is missing
    Up {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Take back the last versions, with what their tables hold
    Down {
        /// How many
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        steps: u32,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List every version, and whether it is applied
    Status {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Add an empty pair of files for the next version
    New {
        /// In snake case: what it does
        name: String,
        #[arg(long, value_name = "FOLDER", default_value = "migrations")]
        dir: PathBuf,
    },
}

pub(super) async fn run(args: MigrateArgs) -> ExitCode {
    let done = match args.what {
        What::Up { database } => {
            app::migrate::up(&database).await.map(|()| "the schema is up to date".to_owned())
        }
        What::Down { steps, database } => {
            app::migrate::down(&database, steps).await.map(|count| format!("took back {count} version(s)"))
        }
        What::Status { database } => app::migrate::status(&database).await,
        What::New { name, dir } => return new(&name, &dir),
    };
    match done {
        Ok(text) => {
            say(text);
            ExitCode::SUCCESS
        }
        Err(error) => fail(format!("{error}; is DATABASE_URL right?")),
    }
}

fn new(name: &str, dir: &std::path::Path) -> ExitCode {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return fail("a version's name has lower-case letters, digits and _ only");
    }
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return fail(format!("{}: {error}", dir.display())),
    };
    let last = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.split_once('_')?.0.parse::<u32>().ok())
        .max()
        .unwrap_or(0);
    for (direction, hint) in [("up", "what it changes"), ("down", "how that is taken back")] {
        let file = dir.join(format!("{:04}_{name}.{direction}.sql", last + 1));
        if let Err(error) = std::fs::write(&file, format!("-- {hint}; safe while an older worker runs\n")) {
            return fail(format!("{}: {error}", file.display()));
        }
        say(file.display());
    }
    ExitCode::SUCCESS
}
