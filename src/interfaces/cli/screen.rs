//! Writing to the terminal. A reader that has left, as with `| head`, is no reason to panic.

use std::io::{self, Write};

/// Writes one line to standard output and flushes it.
pub(super) fn write_line(line: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes to standard error what is wrong, and below it what to do next.
pub(super) fn complain(problem: &str, next: &str) {
    note(&format!("error: {problem}"));
    if !next.is_empty() {
        note(&format!(" next: {next}"));
    }
}

/// Writes one line to standard error, for people.
pub(super) fn note(line: &str) {
    // Nobody is left to tell that nobody listens.
    drop(writeln!(io::stderr().lock(), "{line}"));
}
