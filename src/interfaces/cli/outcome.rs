//! How a subcommand that talks to a worker ends: its exit code, and what it says when it fails.

use std::process::ExitCode;

use chrono::{DateTime, Utc};

use crate::client::{Error, RawReply, Refusal, Unavailable};

use super::screen::{complain, write_line};

/// What the process tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 0
    Done,
    /// 1: the worker said no, or a step failed.
    Refused,
    /// 2: the command line makes no sense.
    Usage,
    /// 3: nobody answered.
    NoAnswer,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Refused => 1,
            Outcome::Usage => 2,
            Outcome::NoAnswer => 3,
        })
    }
}

/// Says what is wrong with the command line, and what to type instead.
pub(super) fn usage(problem: &str, next: &str) -> Outcome {
    complain(problem, next);
    Outcome::Usage
}

/// Puts the reply's JSON alone on standard output; a refusal also gets a hint on standard error.
pub(super) fn reply(reply: &RawReply) -> Outcome {
    if write_line(&reply.body).is_err() {
        return Outcome::NoAnswer;
    }
    match reply.refusal() {
        Ok(None) => Outcome::Done,
        Ok(Some(refusal)) => {
            if let Some(next) = after_refusal(&refusal) {
                complain(&format!("refused: {}", refusal.message), next);
            }
            Outcome::Refused
        }
        Err(problem) => {
            complain(
                &format!("what came back is not a reply of this contract: {problem}"),
                "is something else taking the requests of this namespace?",
            );
            Outcome::NoAnswer
        }
    }
}

/// Says why there is no answer, and what to do about it.
pub(super) fn failure(error: &Error) -> Outcome {
    match error {
        Error::Refused(refusal) => {
            complain(&error.to_string(), after_refusal(refusal).unwrap_or_default());
            Outcome::Refused
        }
        Error::BadRequest(problem) => usage(&problem.to_string(), "see --help"),
        Error::TimedOut { .. } => {
            complain(&error.to_string(), "is a worker running? Ask again");
            Outcome::NoAnswer
        }
        Error::Unavailable(reason) => {
            complain(&error.to_string(), after_unavailable(reason));
            Outcome::NoAnswer
        }
        Error::BadReply { .. } | Error::BadEvent(_) | Error::Gap(_) | Error::Interrupted => {
            complain(&error.to_string(), "");
            Outcome::NoAnswer
        }
    }
}

/// The same of a command, which can be sent again and is not done twice: with its id, and its time where that does not
/// tell it.
pub(super) fn command_failure(error: &Error, timestamp: Option<DateTime<Utc>>) -> Outcome {
    let Error::TimedOut { message_id, .. } = error else { return failure(error) };
    let time = timestamp.map(|time| format!(" --timestamp {}", time.to_rfc3339())).unwrap_or_default();
    let next = format!(
        "is a worker running? It may have been done; to send it again without doing it twice: \
         --message-id {message_id}{time}"
    );
    complain(&error.to_string(), &next);
    Outcome::NoAnswer
}

fn after_unavailable(reason: &Unavailable) -> &'static str {
    match reason {
        Unavailable::Broker { .. } | Unavailable::Silent { .. } => {
            "start RabbitMQ, or set AMQP_URL to where it is and who you are"
        }
        Unavailable::Missing { .. } => {
            "start a worker with `roster serve`, or set ROSTER_NAMESPACE to its namespace"
        }
        Unavailable::Full { .. } => "wait until the workers have caught up",
        Unavailable::Rejected(_) => "give this user the right to write to Roster's exchanges",
        _ => "",
    }
}

fn after_refusal(refusal: &Refusal) -> Option<&'static str> {
    const NEXT: [(&str, &str); 8] = [
        ("missing_token", "name the URL's user in the worker's ROSTER_SERVICES"),
        ("invalid_token", "unset ROSTER_TOKEN: access tokens are not issued yet"),
        ("not_allowed", "ask as an admin, or as a service with that grant in ROSTER_SERVICES"),
        ("unknown_type", "`roster send` takes commands, `roster query` takes queries, such as user.get.v1"),
        ("malformed_json", "quote the JSON for your shell, or pipe it in and write - in its place"),
        ("message_id_reused", "leave --message-id out: that one belongs to another command"),
        ("version_mismatch", "query the user again and send its present version"),
        ("outside_dedupe_window", "send it under a new id: leave --message-id out"),
    ];
    let next = NEXT.iter().find(|(reason, _)| refusal.has_reason(reason));
    next.map(|(_, next)| *next)
}
