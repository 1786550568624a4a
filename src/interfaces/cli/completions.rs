//! `roster completions`: scripts that let a shell complete the command line.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell; the script goes to standard output
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "roster", &mut script);
    // Whoever stops reading has seen enough.
    drop(std::io::stdout().write_all(&script));
    ExitCode::SUCCESS
}
