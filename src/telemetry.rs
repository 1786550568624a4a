//! Log lines on standard error: text for people, JSON for machines.

use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;

use crate::config::{LogArgs, LogFormat};

/// What others log too much of; `ROSTER_LOG` can ask for more of it by name. lapin calls it an error whenever a connection
/// ends, on purpose too; what comes of it is told by those who used it.
const QUIET: &str = "lapin=warn,lapin::channels=off,sqlx=warn,hyper=warn";

/// Starts logging. Does nothing where it has been started already, as in tests.
///
/// # Errors
/// A filter that cannot be read.
pub fn start(args: &LogArgs) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", args.log))?;
    let json = match args.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if json {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).try_init()
    };
    if started.is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

/// A panic is a log line like any other. Only a literal's text is shown: a formatted one could hold a value.
fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let text = info.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
    tracing::error!(place, text, "panicked");
}
