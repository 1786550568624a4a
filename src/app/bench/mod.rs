//! `roster bench`: sizes one's own servers. It works in a namespace and a database of its own, runs the worker as
//! a child process as users do, and leaves nothing behind.

mod child;
mod creates;
mod full;
mod latency;
mod parts;
mod plots;
mod queries;
mod report;
mod stage;
mod throughput;
mod workload;

use clap::ValueEnum;
use thiserror::Error;

use self::stage::Stage;
use crate::application::error::Failure;
use crate::config::ServerUrl;
use crate::infrastructure::rabbitmq::BrokerError;
use crate::interfaces::amqp::SessionError;
use crate::lifecycle::stop_on_signals;

pub use parts::{Part, act};
pub use plots::{PlotError, draw};
pub use report::{Ratio, Report, Series, Target, median, range};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The worker's own broker code without a database: a command in, a confirmed event and reply out
    Pipe,
    /// One transaction for each command, 16 at a time
    Single,
    /// The worker as it is
    Batch,
    /// From a command to its reply: one at a time, and at half of the top rate
    Latency,
    /// user.get.v1 under load, and a bare server that only answers
    Queries,
    /// user.create.v1, and argon2 alone on all cores
    Create,
    /// Lanes and batch sizes, each with a run of its own
    Sweep,
}

impl Mode {
    /// What is measured unless told otherwise.
    pub const USUAL: [Self; 6] =
        [Self::Pipe, Self::Single, Self::Batch, Self::Latency, Self::Queries, Self::Create];
}

/// What to measure, where, and how much of it.
#[derive(Debug, Clone)]
pub struct Plan {
    pub amqp_url: ServerUrl,
    pub database_url: ServerUrl,
    /// What the name of the bench's own namespace starts with.
    pub namespace: String,
    /// What the names of its namespace and its database end with: letters and digits. A fresh one if `None`.
    pub id: Option<String>,
    pub modes: Vec<Mode>,
    /// Commands in one backlog; the other runs take a share of it.
    pub messages: u64,
    pub users: u64,
    pub rounds: u32,
    /// The worker's own default if `None`.
    pub lanes: Option<u32>,
    pub batch: Option<u32>,
    pub prefetch: Option<u16>,
    /// Workers side by side, where a backlog is drained.
    pub replicas: u32,
    /// Also what takes long, this large.
    pub full: Option<Full>,
}

/// How large the long runs are.
#[derive(Debug, Clone, Copy)]
pub struct Full {
    pub users: u64,
    pub events: u64,
    pub waiting: u64,
    pub hold: std::time::Duration,
}

impl Default for Full {
    fn default() -> Self {
        Self {
            users: 1_000_000,
            events: 5_000_000,
            waiting: 1_000_000,
            hold: std::time::Duration::from_secs(300),
        }
    }
}

/// Told how far it is.
pub trait Progress: Sync {
    fn begin(&self, what: &str);
    fn at(&self, done: u64, of: u64);
}

/// Why there are no figures.
#[derive(Debug, Error)]
pub enum BenchError {
    #[error("Postgres: {0}")]
    Database(#[from] Failure),
    #[error("{0}")]
    Broker(#[from] BrokerError),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    #[error("{what} came to a halt at {done} of {of}")]
    Halted { what: &'static str, done: u64, of: u64 },
    #[error("{what}: {count} were refused")]
    Refused { what: &'static str, count: u64 },
    #[error("{0} messages were left in the queue")]
    LeftOver(u32),
    #[error("interrupted")]
    Interrupted,
}

/// Measures, and cleans up whatever happens, Ctrl-C and SIGTERM included.
///
/// # Errors
/// [`BenchError`]
pub async fn run(plan: &Plan, progress: &dyn Progress) -> Result<Report, BenchError> {
    let stop = stop_on_signals()?;
    progress.begin("setting up");
    let stage = Stage::build(plan).await?;
    let measured = tokio::select! {
        measured = measure(plan, &stage, progress) => measured,
        () = stop.cancelled() => Err(BenchError::Interrupted),
    };
    progress.begin("cleaning up");
    let cleaned = stage.strike().await;
    let report = measured?;
    cleaned?;
    Ok(report)
}

async fn measure(plan: &Plan, stage: &Stage, progress: &dyn Progress) -> Result<Report, BenchError> {
    let mut report = Report::new(plan);
    for round in 1..=plan.rounds {
        for mode in &plan.modes {
            let label = format!("round {round} of {}: ", plan.rounds);
            let bench = Bench { plan, stage, progress, label };
            match mode {
                Mode::Pipe => throughput::pipe(&bench, &mut report).await?,
                Mode::Single => throughput::single(&bench, &mut report).await?,
                Mode::Batch => throughput::batch(&bench, &mut report).await?,
                Mode::Latency => latency::measure(&bench, &mut report).await?,
                Mode::Queries => queries::measure(&bench, &mut report).await?,
                Mode::Create => creates::measure(&bench, &mut report).await?,
                Mode::Sweep => throughput::sweep(&bench, &mut report).await?,
            }
        }
        report.end_round();
    }
    if let Some(full) = plan.full {
        let bench = Bench { plan, stage, progress, label: String::new() };
        full::measure(&bench, full, &mut report).await?;
    }
    Ok(report)
}

/// What every measurement needs.
struct Bench<'a> {
    plan: &'a Plan,
    stage: &'a Stage,
    progress: &'a dyn Progress,
    label: String,
}

impl Bench<'_> {
    fn begin(&self, what: &str) {
        self.progress.begin(&format!("{}{what}", self.label));
    }
}
