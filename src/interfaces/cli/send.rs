//! `roster send`: one command, and its reply as JSON.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use uuid::Uuid;

use crate::client::CallOptions;

use super::caller::{CallerArgs, payload};
use super::outcome::{Outcome, command_failure, failure, reply, usage};

/// Send a command and print its reply
///
/// The reply's JSON alone goes to standard output. Exit code 0: done, 1: refused, 2: wrong usage,
/// 3: no answer. The broker is told who asks by the URL's user.
#[derive(Debug, Clone, Args)]
pub struct SendArgs {
    /// The command's type, such as user.create.v1
    #[arg(value_name = "TYPE")]
    pub kind: String,

    /// The payload, a JSON object; - reads it from standard input
    #[arg(value_name = "JSON")]
    pub json: String,

    /// The message id, a UUID. Give that of an earlier call to get its answer again
    #[arg(long, value_name = "UUID")]
    pub message_id: Option<Uuid>,

    /// When the message was first sent; needed beside a message id that is not a UUIDv7
    #[arg(long, value_name = "RFC 3339")]
    pub timestamp: Option<DateTime<Utc>>,

    /// How long from now the command may still be carried out
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,

    #[command(flatten)]
    pub caller: CallerArgs,
}

/// Sends, waits, prints.
pub async fn run(args: SendArgs) -> Outcome {
    let body = match payload(&args.json) {
        Ok(body) => body,
        Err(outcome) => return outcome,
    };
    if args.message_id.is_some_and(|id| id.get_version_num() != 7) && args.timestamp.is_none() {
        return usage(
            "this message id is not a UUIDv7, so it does not say when it was made",
            "add --timestamp with the time it was first sent, such as 2026-11-21T09:30:00Z",
        );
    }
    let client = match args.caller.connect().await {
        Ok(client) => client,
        Err(error) => return failure(&error),
    };
    let options = CallOptions {
        message_id: args.message_id,
        timestamp: args.timestamp,
        deadline: args.deadline,
        ..CallOptions::default()
    };
    let answer = client.send_json(&args.kind, body, options).await;
    client.close().await;
    match answer {
        Ok(answer) => reply(&answer),
        Err(error) => command_failure(&error, args.timestamp),
    }
}
