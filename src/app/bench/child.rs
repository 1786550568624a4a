//! What is measured runs as a child process of the same binary: the worker as users run it, or a stand-in.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child as Process, Command};

use super::parts::Part;
use super::stage::Stage;
use super::{BenchError, Plan};

/// For a child to finish what it has begun.
const GRACE: Duration = Duration::from_secs(20);

/// A running child. Killed when dropped.
#[derive(Debug)]
pub(super) struct Child(Process);

/// The settings of a worker that differ from run to run; its own defaults where `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Worker {
    pub lanes: Option<u32>,
    pub batch: Option<u32>,
    pub prefetch: Option<u16>,
}

impl Worker {
    pub const fn of(plan: &Plan) -> Self {
        Self { lanes: plan.lanes, batch: plan.batch, prefetch: plan.prefetch }
    }
}

impl Child {
    /// `roster serve`
    pub fn worker(stage: &Stage, worker: Worker) -> Result<Self, BenchError> {
        let mut command = command(stage)?;
        command
            .arg("serve")
            .env("DATABASE_URL", stage.database_url())
            .env("ROSTER_SECRET", &stage.secret)
            .env("ROSTER_SERVICES", format!("{}=admin", stage.user))
            .env("ROSTER_HTTP", "off")
            // lapin says more of a connection that is closed than anybody wants to know.
            .env("ROSTER_LOG", "error,lapin=off");
        if let Some(lanes) = worker.lanes {
            command.env("ROSTER_LANES", lanes.to_string());
        }
        if let Some(batch) = worker.batch {
            command.env("ROSTER_BATCH", batch.to_string());
        }
        if let Some(prefetch) = worker.prefetch {
            command.env("ROSTER_PREFETCH", prefetch.to_string());
        }
        Ok(Self(command.spawn()?))
    }

    /// A stand-in for the worker.
    pub fn part(stage: &Stage, part: Part) -> Result<Self, BenchError> {
        let mut command = command(stage)?;
        command.args(["bench", "--act-as", part.name()]);
        Ok(Self(command.spawn()?))
    }

    /// Resident memory in MiB; `None` where the system does not tell.
    pub fn resident(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib / 1024.0)
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        if let Some(id) = self.0.id() {
            let id = i32::try_from(id).ok().and_then(Pid::from_raw);
            if id.is_some_and(|id| kill_process(id, Signal::TERM).is_ok())
                && tokio::time::timeout(GRACE, self.0.wait()).await.is_ok()
            {
                return Ok(());
            }
        }
        Ok(self.0.kill().await?)
    }
}

fn command(stage: &Stage) -> Result<Command, BenchError> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROSTER_") {
            command.env_remove(name);
        }
    }
    command
        .env("AMQP_URL", &stage.amqp_url)
        .env("ROSTER_NAMESPACE", &stage.namespace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}
