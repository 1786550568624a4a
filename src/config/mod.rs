//! Every setting of the service: a flag of `roster serve` and an environment variable, described by `--help`.
//!
//! What several subcommands need is a group of its own: [`DatabaseArgs`], [`BrokerArgs`], [`LogArgs`].

mod secret;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::application::judge::ReplyPatterns;

pub use secret::{Secret, ServerUrl};
pub use values::{HttpAddress, KnownServices, Namespace, RetryDelays, ipv6_host};

/// Where Postgres is.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// Postgres, as postgres://user:password@host:port/database. Rather set it in the environment: others
    /// can read a command line [default: postgres on 127.0.0.1:5432, database roster]
    #[arg(
        long,
        env = "DATABASE_URL",
        value_name = "URL",
        default_value = "postgres://postgres@127.0.0.1:5432/roster",
        hide_env_values = true,
        hide_default_value = true,
        value_parser = secret::UrlParser::POSTGRES
    )]
    pub database_url: ServerUrl,
}

/// Where RabbitMQ is, and which of its objects are ours.
#[derive(Debug, Clone, Args)]
pub struct BrokerArgs {
    /// RabbitMQ, as amqp://user:password@host:port/vhost (or amqps). Rather set it in the environment: others
    /// can read a command line [default: guest on 127.0.0.1:5672]
    #[arg(
        long,
        env = "AMQP_URL",
        value_name = "URL",
        default_value = "amqp://guest:guest@127.0.0.1:5672",
        hide_env_values = true,
        hide_default_value = true,
        value_parser = secret::UrlParser::AMQP
    )]
    pub amqp_url: ServerUrl,

    /// What the name of every object on the broker starts with: letters, digits, '.', '_', '-', at most 100
    #[arg(long, env = "ROSTER_NAMESPACE", value_name = "NAME", default_value = "roster")]
    pub namespace: Namespace,
}

/// What is logged, to standard error.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or by module, as in info,roster::infrastructure=debug
    #[arg(long, env = "ROSTER_LOG", value_name = "FILTER", default_value = "info", value_parser = values::log_filter)]
    pub log: String,

    /// How a line looks; auto is text on a terminal and json elsewhere
    #[arg(long, env = "ROSTER_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
    Auto,
}

/// The key of everything that is sealed or fingerprinted.
#[derive(Debug, Clone, Args)]
pub struct SecretArgs {
    /// At least 32 bytes of any text; keys the fingerprints and the bodies of failed commands. All workers on
    /// one database share it. To make one: openssl rand -base64 32
    #[arg(
        long,
        env = "ROSTER_SECRET",
        value_name = "TEXT",
        required = true,
        hide_env_values = true,
        value_parser = secret::SecretParser
    )]
    pub secret: Secret,
}

/// The same key, where only some of what a subcommand does needs it.
#[derive(Debug, Clone, Args)]
pub struct BodySecretArgs {
    /// The secret of the worker that kept it; needed for bodies only
    #[arg(
        long,
        env = "ROSTER_SECRET",
        value_name = "TEXT",
        hide_env_values = true,
        value_parser = secret::SecretParser
    )]
    pub secret: Option<Secret>,
}

/// What to do about the exchanges and queues at start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topology {
    /// Make those that are missing; one that stands with other arguments is an error.
    Declare,
    /// Only see that they are there.
    Check,
}

/// The settings of `roster serve`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    pub database: DatabaseArgs,

    #[command(flatten)]
    pub broker: BrokerArgs,

    #[command(flatten)]
    pub secret: SecretArgs,

    /// Broker users that are known services: name=reader or name=admin, comma-separated
    #[arg(long, env = "ROSTER_SERVICES", value_name = "LIST", default_value = "")]
    pub services: KnownServices,

    /// Queues that replies may go to, comma-separated; '*' is any run of characters. Direct reply-to always may
    #[arg(
        long,
        env = "ROSTER_REPLY_TO",
        value_name = "PATTERNS",
        default_value = "amq.gen-*,amq.rabbitmq.reply-to.*,reply.*",
        value_parser = values::reply_patterns
    )]
    pub reply_to: ReplyPatterns,

    /// Where /livez, /readyz and /metrics are served, as host:port, or off. Port 0 takes a free one
    #[arg(long, env = "ROSTER_HTTP", value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    pub http: HttpAddress,

    /// A file that the bound address of --http is written to, for whoever gave port 0
    #[arg(long, env = "ROSTER_HTTP_FILE", value_name = "PATH")]
    pub http_file: Option<PathBuf>,

    /// Exchanges and queues at start-up: declare what is missing, or only check
    #[arg(long, env = "ROSTER_TOPOLOGY", value_name = "MODE", default_value = "declare")]
    pub topology: Topology,

    /// Apply missing migrations at start-up: true or false
    #[arg(
        long,
        env = "ROSTER_MIGRATE",
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub migrate: bool,

    /// Batches that run at once, each in a transaction of its own, beside two of commands with a password (1 to 64)
    #[arg(
        long,
        env = "ROSTER_LANES",
        value_name = "COUNT",
        default_value_t = 4,
        value_parser = values::bounded(1, 64)
    )]
    pub lanes: u32,

    /// The most commands in one batch (1 to 5000)
    #[arg(
        long,
        env = "ROSTER_BATCH",
        value_name = "COUNT",
        default_value_t = 256,
        value_parser = values::bounded(1, 5000)
    )]
    pub batch: u32,

    /// Commands the broker hands out ahead of their ack (1 to 65535)
    /// [default: lanes × batch × 2, at most 2000]
    #[arg(long, env = "ROSTER_PREFETCH", value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub prefetch: Option<u16>,

    /// The most connections to Postgres (6 to 1000) [default: lanes + 10]
    #[arg(long, env = "ROSTER_DATABASE_CONNECTIONS", value_name = "COUNT", value_parser = values::bounded(6, 1000))]
    pub database_connections: Option<u32>,

    /// Days for which the same message gets the same answer (1 to 90)
    #[arg(
        long,
        env = "ROSTER_DEDUPE_DAYS",
        value_name = "DAYS",
        default_value_t = 7,
        value_parser = values::bounded(1, 90)
    )]
    pub dedupe_days: u32,

    /// Days for which published events are kept (1 to 3650)
    #[arg(
        long,
        env = "ROSTER_EVENT_DAYS",
        value_name = "DAYS",
        default_value_t = 90,
        value_parser = values::bounded(1, 3650)
    )]
    pub event_days: u32,

    /// Days for which dead letters are kept (1 to 3650)
    #[arg(
        long,
        env = "ROSTER_DEAD_DAYS",
        value_name = "DAYS",
        default_value_t = 30,
        value_parser = values::bounded(1, 3650)
    )]
    pub dead_days: u32,

    /// When a failed command is tried again, each counted from the failure before, comma-separated; after the
    /// last it is a dead letter
    #[arg(long, env = "ROSTER_RETRY_DELAYS", value_name = "DURATIONS", default_value = "1s,10s,1m,10m")]
    pub retry_delays: RetryDelays,

    /// Unpublished events at which commands pause until the relay has caught up
    #[arg(
        long,
        env = "ROSTER_OUTBOX_LIMIT",
        value_name = "EVENTS",
        default_value_t = 100_000,
        value_parser = values::bounded(1, 1_000_000_000)
    )]
    pub outbox_limit: u32,

    /// What the dataschema of events starts with
    #[arg(long, env = "ROSTER_SCHEMA_BASE", value_name = "URI", default_value = "urn:roster:schema:")]
    pub schema_base: String,

    /// How long work that has begun may take to finish after SIGTERM or Ctrl-C, as 30s or 2m
    #[arg(
        long,
        env = "ROSTER_SHUTDOWN_GRACE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = values::grace
    )]
    pub shutdown_grace: Duration,

    #[command(flatten)]
    pub log: LogArgs,
}

impl Settings {
    /// The most that a derived prefetch comes to: what a dying consumer had in hand counts as delivered.
    const MAX_DERIVED_PREFETCH: u32 = 2000;

    /// Commands in hand, given or derived: enough to fill the next batches while the present ones commit.
    #[must_use]
    pub fn prefetch(&self) -> u16 {
        let derived = self.lanes.saturating_mul(self.batch).saturating_mul(2).min(Self::MAX_DERIVED_PREFETCH);
        self.prefetch.unwrap_or_else(|| u16::try_from(derived).unwrap_or(u16::MAX))
    }

    /// Connections to Postgres, given or derived: one for each lane, the rest for queries, the relay, kept commands and upkeep.
    #[must_use]
    pub fn database_connections(&self) -> u32 {
        self.database_connections.unwrap_or(self.lanes + 10)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Serve {
        #[command(flatten)]
        settings: Settings,
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn parse(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = ["serve", "--secret", SECRET].iter().chain(arguments);
        Serve::try_parse_from(arguments).map(|serve| serve.settings).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound_and_every_setting_is_a_variable_too() {
        Serve::command().debug_assert();
        for argument in Serve::command().get_arguments().filter(|argument| argument.get_id() != "help") {
            assert!(argument.get_env().is_some(), "{}", argument.get_id());
        }
    }

    #[test]
    fn the_prefetch_is_derived_from_lanes_and_batch() {
        assert_eq!(parse(&[]).unwrap().prefetch(), 2000);
        assert_eq!(parse(&["--lanes", "2", "--batch", "10"]).unwrap().prefetch(), 40);
        assert_eq!(parse(&["--prefetch", "7"]).unwrap().prefetch(), 7);
    }

    #[test]
    fn credentials_are_never_shown() {
        let settings = parse(&[
            "--amqp-url",
            "amqp://ada:hunter2@broker:5672/%2f?x=hunter2",
            "--database-url",
            "postgres://ada:hunter2@db/roster?password=hunter2",
        ])
        .unwrap();
        let shown = format!("{settings:?} {}", settings.broker.amqp_url);
        assert!(!shown.contains("hunter2") && !shown.contains(SECRET), "{shown}");
        assert!(shown.contains("amqp://broker:5672/%2f"), "{shown}");
    }

    #[test]
    fn an_error_does_not_repeat_a_secret() {
        let wrong = [("--amqp-url", "http://ada:hunter2@x"), ("--database-url", "hunter2")];
        for (flag, value) in wrong {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("must start with"), "{error}");
        }
        let error = Serve::try_parse_from(["serve", "--secret", "hunter2"]).unwrap_err().to_string();
        assert!(!error.contains("hunter2") && error.contains("at least 32 bytes"), "{error}");
    }
}
