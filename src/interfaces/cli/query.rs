//! `roster query`: one query, and its reply as JSON.

use clap::Args;

use crate::client::CallOptions;

use super::caller::{CallerArgs, payload};
use super::outcome::{Outcome, failure, reply};

/// Ask a query and print its reply
///
/// The reply's JSON alone goes to standard output. Exit code 0: answered, 1: refused, 2: wrong usage,
/// 3: no answer. The broker is told who asks by the URL's user.
#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    /// The query's type, such as user.get.v1
    #[arg(value_name = "TYPE")]
    pub kind: String,

    /// The payload, a JSON object; - reads it from standard input
    #[arg(value_name = "JSON", default_value = "{}")]
    pub json: String,

    #[command(flatten)]
    pub caller: CallerArgs,
}

/// Asks, waits, prints.
pub async fn run(args: QueryArgs) -> Outcome {
    let body = match payload(&args.json) {
        Ok(body) => body,
        Err(outcome) => return outcome,
    };
    let client = match args.caller.connect().await {
        Ok(client) => client,
        Err(error) => return failure(&error),
    };
    let answer = client.query_json(&args.kind, body, CallOptions::default()).await;
    client.close().await;
    match answer {
        Ok(answer) => reply(&answer),
        Err(error) => failure(&error),
    }
}
