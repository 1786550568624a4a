//! What the subcommands that talk to a worker share: who asks, and how long to wait.

use std::convert::Infallible;
use std::io::Read;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use crate::client::{Client, Error, Options};
use crate::config::BrokerArgs;

use super::outcome::{Outcome, usage};

#[derive(Debug, Clone, Args)]
pub struct CallerArgs {
    #[command(flatten)]
    pub broker: BrokerArgs,

    /// How long one try waits for its answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,

    /// How often to ask, with the same message id, before giving up
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,

    /// The access token of the user to ask as. Rather set it in the environment: others can read a command line
    #[arg(long, env = "ROSTER_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    pub token: Option<SecretString>,
}

fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}

impl CallerArgs {
    pub(super) async fn connect(&self) -> Result<Client, Error> {
        let options = Options {
            namespace: self.broker.namespace.as_str().to_owned(),
            timeout: self.timeout,
            attempts: self.attempts,
            token: self.token.clone(),
            ..Options::default()
        };
        Client::connect(self.broker.amqp_url.expose(), options).await
    }
}

/// A payload from the command line, or from standard input where it is `-`.
pub(super) fn payload(argument: &str) -> Result<Vec<u8>, Outcome> {
    let mut body = argument.as_bytes().to_vec();
    if argument == "-" {
        body.clear();
        if let Err(error) = std::io::stdin().lock().read_to_end(&mut body) {
            return Err(usage(&format!("standard input: {error}"), ""));
        }
        // What editors and `echo` add is not part of the message.
        body.truncate(body.trim_ascii_end().len());
    }
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body) {
        Ok(_) => Ok(body),
        Err(error) => Err(usage(
            &format!("the payload is not a JSON object: {error}"),
            r#"quote it for your shell, as in '{"id": "0198…"}', or pipe it in and write -"#,
        )),
    }
}
