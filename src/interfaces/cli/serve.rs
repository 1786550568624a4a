//! `roster serve`: the worker.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::fail;
use crate::app;
use crate::config::Settings;
use crate::telemetry;

/// Of every thread, in bytes. lapin reads what the broker sends on threads of its own, and tables in headers by
/// recursion: in Rust's 2 MiB a single message with 5,000 of them, one in the other, ends the process. As many as a frame
/// can hold take 40 MiB, and several times that without optimisation. What is not used takes no memory.
const STACK: &str = "268435456";
/// Where the standard library looks for it; there is no other way to the threads of a library.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";

/// Starts the program anew in this process, with deep stacks, unless the environment asks for some already. Returns
/// where there is nothing to do, or it cannot be done.
pub(super) fn with_deep_stacks() {
    let (Ok(program), mut arguments) = (std::env::current_exe(), std::env::args_os()) else { return };
    let (Some(name), None) = (arguments.next(), std::env::var_os(STACK_VARIABLE)) else { return };
    // Without them it serves as well, but for such messages.
    let _ = Command::new(program).arg0(name).args(arguments).env(STACK_VARIABLE, STACK).exec();
}

pub(super) async fn run(settings: Settings) -> ExitCode {
    if let Err(error) = telemetry::start(&settings.log) {
        return fail(error);
    }
    match app::serve(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}
