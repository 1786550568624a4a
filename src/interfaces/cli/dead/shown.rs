//! Failed commands as tables and JSON. What strangers put into a message must not reach the terminal as commands.

use std::io::IsTerminal as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::application::dead_letter::Letter;

fn empty() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

pub(super) fn table(letters: &[Letter]) -> String {
    let mut table = empty();
    table.set_header(["MESSAGE ID", "TYPE", "REASON", "STATE", "ATTEMPTS", "AGE", "LAST ERROR"]);
    for letter in letters {
        table.add_row([
            id(letter),
            harmless(&letter.message_type),
            letter.reason.clone(),
            letter.state.as_str().to_owned(),
            letter.attempts.to_string(),
            age(letter.created_at),
            harmless(&letter.last_error),
        ]);
    }
    table.trim_fmt()
}

/// What would be done to each.
pub(super) fn dry<'a>(letters: impl Iterator<Item = (&'a Letter, &'a str)>) -> String {
    let mut table = empty();
    table.set_header(["MESSAGE ID", "TYPE", "REASON", "ABOUT", "AGE", "WOULD"]);
    for (letter, plan) in letters {
        table.add_row([
            id(letter),
            harmless(&letter.message_type),
            letter.reason.clone(),
            harmless(letter.aggregate.as_deref().unwrap_or("-")),
            age(letter.created_at),
            plan.to_owned(),
        ]);
    }
    table.trim_fmt()
}

pub(super) fn details(letter: &Letter) -> String {
    let mut table = empty();
    let properties = serde_json::to_string(&letter.properties).unwrap_or_default();
    let time = |time: DateTime<Utc>| time.to_rfc3339();
    table.add_rows(
        [
            ["message id", &letter.message_id.map_or("-".to_owned(), |id| id.to_string())],
            ["row", &letter.id.to_string()],
            ["type", &letter.message_type],
            ["about", letter.aggregate.as_deref().unwrap_or("-")],
            ["actor", &letter.actor],
            ["state", letter.state.as_str()],
            ["reason", &letter.reason],
            ["attempts", &letter.attempts.to_string()],
            ["first error", &letter.first_error],
            ["last error", &letter.last_error],
            ["kept", &time(letter.created_at)],
            ["changed", &time(letter.updated_at)],
            ["due", &letter.due_at.map_or("-".to_owned(), time)],
            ["answered", if letter.answered { "yes: the inbox has its answer" } else { "no" }],
            ["properties", &properties],
        ]
        .map(|row| row.map(harmless)),
    );
    table.trim_fmt()
}

#[derive(Serialize)]
struct WithBody<'a> {
    #[serde(flatten)]
    letter: &'a Letter,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// Where the body is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

pub(super) fn json(letter: &Letter, body: Option<&[u8]>) -> String {
    let text = body.and_then(|body| std::str::from_utf8(body).ok());
    let other = body.filter(|_| text.is_none()).map(|body| STANDARD.encode(body));
    serde_json::json!({ "data": WithBody { letter, body: text, body_base64: other } }).to_string()
}

/// As it was sent, unless a terminal would obey it.
pub(super) fn body(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if std::io::stdout().is_terminal() { harmless(&text) } else { text.into_owned() }
}

/// A row whose message id cannot be used, or is another message's, goes by its own.
fn id(letter: &Letter) -> String {
    letter.message_id.map_or_else(|| format!("row:{}", letter.id), |id| id.to_string())
}

fn harmless(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// `40s`, `12m`, `5h`, `3d`
fn age(since: DateTime<Utc>) -> String {
    let age = (Utc::now() - since).max(TimeDelta::zero());
    match age.num_seconds() {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_short() {
        let ages =
            [5, 600, 3 * 3600, 3 * 86_400].map(|seconds| age(Utc::now() - TimeDelta::seconds(seconds)));
        assert_eq!(ages, ["5s", "10m", "3h", "3d"]);
    }

    #[test]
    fn a_terminal_gets_no_orders_from_a_message() {
        assert_eq!(harmless("a\u{1b}[31m\u{9b}b\n"), "a\u{fffd}[31m\u{fffd}b\u{fffd}");
    }
}
