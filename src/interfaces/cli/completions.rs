//! `roster completions`: scripts that let a shell complete the command line.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell; the script goes to standard output
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "roster", &mut std::io::stdout());
    ExitCode::SUCCESS
}
