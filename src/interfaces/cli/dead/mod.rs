//! `roster dead`: the commands that failed, those that wait to be tried again and those that are dead letters.

mod choice;
mod replay;
mod shown;

use clap::{Args, Subcommand};
use uuid::Uuid;

use self::choice::{Chosen, Filter, row_or_message};
use self::replay::ReplayArgs;
use self::shown::{details, dry, table};
use super::outcome::{Outcome, usage};
use super::screen::{complain, note, write_line};
use crate::app;
use crate::application::dead_letter::{Letter, Selection};
use crate::application::error::Failure;
use crate::config::{BodySecretArgs, DatabaseArgs};

/// Look at commands that failed, run them again, drop them
#[derive(Debug, Args)]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List what waits to be tried again and what is a dead letter, the oldest first
    List(ListArgs),
    /// Show one with its properties, its times, its first and its last error
    Show(ShowArgs),
    /// Run commands again, now and with all their tries before them; without --yes, say what would happen
    Replay(ReplayArgs),
    /// Delete for good; without --yes, say what would be deleted
    Drop(DropArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only this one: a message id, or a row's as the list shows it
    #[arg(long, value_name = "ID", value_parser = row_or_message)]
    id: Option<Uuid>,

    #[command(flatten)]
    filter: Filter,

    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: u32,

    /// One JSON object, for machines
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// A message id, or a row's as the list shows it
    #[arg(value_name = "ID", value_parser = row_or_message)]
    id: Uuid,

    /// The body too, exactly as it was sent. It is sealed, so this takes ROSTER_SECRET; whoever has that sees what
    /// the body holds, passwords included
    #[arg(long)]
    body: bool,

    /// One JSON object, for machines
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    secret: BodySecretArgs,

    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
struct DropArgs {
    #[command(flatten)]
    chosen: Chosen,

    /// Yes, for good
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(args: DeadArgs) -> Outcome {
    match args.what {
        What::List(args) => list(args).await,
        What::Show(args) => show(args).await,
        What::Replay(args) => replay::run(args).await,
        What::Drop(args) => drop(args).await,
    }
}

async fn list(args: ListArgs) -> Outcome {
    let selection = Selection { ids: args.id.into_iter().collect(), ..args.filter.into() };
    let (letters, total) = match app::dead::list(&args.database, &selection, args.limit).await {
        Ok(found) => found,
        Err(failure) => return no_database(&failure),
    };
    if args.json {
        return say(&serde_json::json!({ "data": letters, "meta": { "total": total } }).to_string());
    }
    if !letters.is_empty() && say(&table(&letters)) != Outcome::Done {
        return Outcome::Done;
    }
    note(&format!("{} of {total} failed commands", letters.len()));
    Outcome::Done
}

async fn show(args: ShowArgs) -> Outcome {
    let selection = Selection { ids: vec![args.id], ..Selection::default() };
    let letters = match app::dead::list(&args.database, &selection, 10).await {
        Ok((letters, _)) => letters,
        Err(failure) => return no_database(&failure),
    };
    if letters.is_empty() {
        complain("no failed command has this id", "see `roster dead list`; what succeeded is gone from it");
        return Outcome::Refused;
    }
    for letter in &letters {
        let body = if args.body { body(&args, letter).await } else { Ok(None) };
        let shown = match body {
            Ok(body) if args.json => shown::json(letter, body.as_deref()),
            Ok(None) => details(letter),
            Ok(Some(body)) => format!("{}\n\n{}", details(letter), shown::body(&body)),
            Err(outcome) => return outcome,
        };
        if say(&shown) != Outcome::Done {
            return Outcome::Done;
        }
    }
    Outcome::Done
}

async fn body(args: &ShowArgs, letter: &Letter) -> Result<Option<Vec<u8>>, Outcome> {
    let Some(secret) = &args.secret.secret else {
        return Err(usage("a body is sealed", "set ROSTER_SECRET to the secret of the worker that kept it"));
    };
    app::dead::body(&args.database, secret, letter.id).await.map_err(|failure| {
        complain(&failure.to_string(), "set ROSTER_SECRET to the secret of the worker that kept it");
        Outcome::Refused
    })
}

async fn drop(args: DropArgs) -> Outcome {
    let letters = match app::dead::drop(&args.database, &args.chosen.clone().into(), args.yes).await {
        Ok(letters) => letters,
        Err(failure) => return no_database(&failure),
    };
    let running = letters.iter().filter(|letter| letter.running).count();
    let dropped = letters.len() - running;
    if args.yes {
        note(&format!("dropped {dropped}"));
    } else {
        let lines = letters.iter().map(|letter| (letter, if letter.running { "running" } else { "drop" }));
        if say(&dry(lines)) != Outcome::Done {
            return Outcome::Done;
        }
        note(&format!("{dropped} would be dropped; add --yes to do it"));
    }
    let all_found = args.chosen.all_found(letters.iter());
    if running == 0 {
        return if all_found { Outcome::Done } else { Outcome::Refused };
    }
    complain(&format!("{running} cannot be dropped: a worker has them in hand"), "try again in a minute");
    Outcome::Refused
}

fn say(text: &str) -> Outcome {
    // Whoever stops reading has seen enough.
    if write_line(text.as_bytes()).is_ok() { Outcome::Done } else { Outcome::NoAnswer }
}

fn no_database(failure: &Failure) -> Outcome {
    complain(
        &failure.to_string(),
        "is DATABASE_URL right, and its schema up to date? See `roster migrate status`",
    );
    Outcome::NoAnswer
}
