//! `roster watch`: events as they happen.

use chrono::SecondsFormat;
use clap::Args;

use crate::client::{Client, Error, Event, Events, Gap, Options};
use crate::config::BrokerArgs;

use super::outcome::{Outcome, failure};
use super::screen::{note, write_line};

/// Show events as they happen, until Ctrl-C
///
/// Repeats are left out; a gap in a user's events is told on standard error.
#[derive(Debug, Clone, Args)]
pub struct WatchArgs {
    /// Which types: words between dots, * is any word, # any number of words; such as user.*.v1
    #[arg(value_name = "PATTERN", default_value = "#")]
    pub pattern: String,

    /// For machines: each event as it is published, one JSON object per line
    #[arg(long)]
    pub json: bool,

    /// End after this many events
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,

    #[command(flatten)]
    pub broker: BrokerArgs,
}

/// Prints events until Ctrl-C, `--count`, or a reader that has left.
pub async fn run(args: WatchArgs) -> Outcome {
    let options = Options { namespace: args.broker.namespace.as_str().to_owned(), ..Options::default() };
    let client = match Client::connect(args.broker.amqp_url.expose(), options).await {
        Ok(client) => client,
        Err(error) => return failure(&error),
    };
    let mut events = match client.events(&args.pattern).await {
        Ok(events) => events,
        Err(error) => return failure(&error),
    };
    note(&format!("watching {} in namespace {}; Ctrl-C ends", args.pattern, args.broker.namespace.as_str()));
    let outcome = tokio::select! {
        outcome = show(&mut events, &args) => outcome,
        _ = tokio::signal::ctrl_c() => Outcome::Done,
    };
    client.close().await;
    outcome
}

async fn show(events: &mut Events, args: &WatchArgs) -> Outcome {
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        match events.next().await {
            Some(Ok(event)) => {
                let line = if args.json { one_line(event.json()) } else { readable(&event).into_bytes() };
                if write_line(&line).is_err() {
                    return Outcome::Done;
                }
                left -= 1;
            }
            Some(Err(Error::Gap(gap))) => note(&missing(&gap)),
            Some(Err(Error::Interrupted)) => {
                note("the connection was lost and is back: events of that time are missing");
            }
            Some(Err(error)) => note(&error.to_string()),
            None => return Outcome::NoAnswer,
        }
    }
    Outcome::Done
}

fn missing(gap: &Gap) -> String {
    let last = gap.found.saturating_sub(1);
    format!(
        "missing: events {} to {last} of {subject}; to see them: \
         roster query event.list.v1 '{{\"subject\":\"{subject}\",\"after_sequence\":{after}}}'",
        gap.expected,
        subject = gap.subject,
        after = gap.expected.saturating_sub(1),
    )
}

/// The event as it came; a publisher that writes JSON over several lines is put on one.
fn one_line(json: &[u8]) -> Vec<u8> {
    if !json.contains(&b'\n') && !json.contains(&b'\r') {
        return json.to_vec();
    }
    // Line ends stand only between tokens: inside a JSON string they are escaped.
    json.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')).copied().collect()
}

/// `2026-11-21T09:30:00.123Z user.created.v1 0198… #1 by anonymous email="ada@example.com" …`
fn readable(event: &Event) -> String {
    let mut line = format!(
        "{} {:<24} {} #{}",
        event.time.to_rfc3339_opts(SecondsFormat::Millis, true),
        event.kind,
        event.subject,
        event.sequence
    );
    if let Some(actor) = &event.actor {
        line.push_str(&format!(" by {actor}"));
    }
    for (name, value) in event.data.as_object().into_iter().flatten() {
        line.push_str(&format!(" {name}={value}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENAMED: &str = r#"{"specversion":"1.0","id":"e1","source":"/roster","type":"user.renamed.v1",
        "subject":"u1","time":"2026-11-21T09:30:00.123Z","sequence":"0000000000000000012",
        "actor":"anonymous","data":{"name":"Ada \"the first\""}}"#;

    #[test]
    fn an_event_reads_as_one_line() {
        let event = Event::from_json(RENAMED.as_bytes().to_vec()).unwrap();
        let line = r#"2026-11-21T09:30:00.123Z user.renamed.v1          u1 #12 by anonymous name="Ada \"the first\"""#;
        assert_eq!(readable(&event), line);
        let json = one_line(event.json());
        assert!(!json.contains(&b'\n'));
        assert_eq!(Event::from_json(json).unwrap().data, event.data);
    }

    #[test]
    fn a_gap_says_what_to_type_to_see_it() {
        let gap = Gap { subject: "u1".into(), expected: 3, found: 5 };
        let line = missing(&gap);
        assert!(line.starts_with("missing: events 3 to 4 of u1;"), "{line}");
        assert!(
            line.ends_with(r#"roster query event.list.v1 '{"subject":"u1","after_sequence":2}'"#),
            "{line}"
        );
    }
}
