//! `roster dead replay`: what it says before and after.

use clap::Args;

use super::choice::Chosen;
use super::shown::dry;
use super::{no_database, say};
use crate::app;
use crate::application::dead_letter::{Fate, Letter, Replay};
use crate::config::DatabaseArgs;
use crate::interfaces::cli::outcome::Outcome;
use crate::interfaces::cli::screen::{complain, note};

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    chosen: Chosen,

    /// Do it
    #[arg(long)]
    yes: bool,

    /// Give a fresh message id to those whose own cannot be used: it is older than the dedupe window, is another
    /// message's, or is no UUID. Only do this where nothing came of the first message
    #[arg(long)]
    new_id: bool,

    /// Run also those whose deadline has passed, without it
    #[arg(long)]
    without_deadline: bool,

    /// The workers' dedupe window
    #[arg(long, env = "ROSTER_DEDUPE_DAYS", value_name = "DAYS", default_value_t = 7)]
    dedupe_days: u32,

    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(args: ReplayArgs) -> Outcome {
    let replay = Replay {
        new_id: args.new_id,
        without_deadline: args.without_deadline,
        dedupe_days: args.dedupe_days,
    };
    let letters = match app::dead::replay(&args.database, &args.chosen.clone().into(), replay, args.yes).await
    {
        Ok(letters) => letters,
        Err(failure) => return no_database(&failure),
    };
    let replayed = letters.iter().filter(|(_, fate)| fate.is_replayed()).count();
    if args.yes {
        note(&format!("replayed {replayed}; `roster dead list` shows what fails again"));
    } else {
        if say(&dry(letters.iter().map(|(letter, fate)| (letter, plan(*fate))))) != Outcome::Done {
            return Outcome::Done;
        }
        note(&format!("{replayed} would be replayed; add --yes to do it"));
    }
    let all_found = args.chosen.all_found(letters.iter().map(|(letter, _)| letter));
    if replayed == letters.len() && all_found {
        return Outcome::Done;
    }
    for fate in [Fate::OutsideWindow, Fate::DeadlinePassed, Fate::Running] {
        refused(&letters, fate);
    }
    Outcome::Refused
}

const fn plan(fate: Fate) -> &'static str {
    match fate {
        Fate::Again => "run",
        Fate::Answered => "send the stored answer",
        Fate::Renewed => "run under a new id",
        Fate::Running => "nothing: running",
        Fate::OutsideWindow => "nothing: too old",
        Fate::DeadlinePassed => "nothing: too late",
    }
}

fn refused(letters: &[(Letter, Fate)], fate: Fate) {
    let count = letters.iter().filter(|(_, one)| *one == fate).count();
    if count == 0 {
        return;
    }
    let (why, next) = match fate {
        Fate::OutsideWindow => (
            "older than the dedupe window, so nobody can tell whether it was done",
            "if you know that it was not, add --new-id",
        ),
        Fate::DeadlinePassed => (
            "past its deadline: nobody waits for it any more",
            "to run it all the same, add --without-deadline",
        ),
        _ => ("in a worker's hands", "see what becomes of it with `roster dead list`"),
    };
    complain(&format!("{count} not replayed: {why}"), next);
}
