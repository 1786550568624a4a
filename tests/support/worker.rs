//! A real worker as a child process: how it is started, watched, signalled and ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::eventually::eventually;
use super::{broker, http};

/// `ROSTER_SECRET` of every worker in the suite.
pub const SECRET: &str = "the-integration-suite-secret-0123456789abcdef";

/// A worker about to be started.
#[derive(Clone, Debug)]
pub struct Builder {
    folder: PathBuf,
    name: String,
    variables: BTreeMap<String, String>,
    arguments: Vec<String>,
}

impl Builder {
    pub fn new(folder: &Path, name: String, database: &str, amqp_url: &str, namespace: &str) -> Self {
        let mut builder = Self {
            folder: folder.to_owned(),
            name,
            variables: BTreeMap::new(),
            arguments: vec!["serve".to_owned()],
        };
        let http_file = builder.folder.join(format!("{}.http", builder.name));
        for (name, value) in [
            ("DATABASE_URL", database),
            ("AMQP_URL", amqp_url),
            ("ROSTER_NAMESPACE", namespace),
            ("ROSTER_HTTP", "127.0.0.1:0"),
            ("ROSTER_HTTP_FILE", &http_file.to_string_lossy()),
            ("ROSTER_SECRET", SECRET),
            ("ROSTER_SERVICES", &format!("{}=admin", broker::user_in(amqp_url))),
            ("ROSTER_LOG", "info"),
            ("ROSTER_LOG_FORMAT", "json"),
        ] {
            builder = builder.env(name, value);
        }
        builder
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    /// `ROSTER_SERVICES`; empty for none.
    pub fn services(self, services: &str) -> Self {
        self.env("ROSTER_SERVICES", services)
    }

    /// Leads the worker's database connections through a proxy.
    pub fn database_via(self, proxy: SocketAddr) -> Self {
        let url = broker::through(&self.variables["DATABASE_URL"], proxy);
        self.env("DATABASE_URL", url)
    }

    /// Leads the worker's broker connections through a proxy.
    pub fn amqp_via(self, proxy: SocketAddr) -> Self {
        let url = broker::through(&self.variables["AMQP_URL"], proxy);
        self.env("AMQP_URL", url)
    }

    /// Starts the worker and waits until it is ready.
    pub async fn start(self) -> Worker {
        let mut worker = self.spawn();
        worker.wait_ready().await;
        worker
    }

    /// Starts the worker and does not wait.
    pub fn spawn(self) -> Worker {
        let log = self.folder.join(format!("{}.log", self.name));
        let log_from = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let file = File::options().create(true).append(true).open(&log);
        let file = file.expect("a log file for the worker");
        let http_file = self.folder.join(format!("{}.http", self.name));
        let _ = std::fs::remove_file(&http_file);
        let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
        for (name, _) in std::env::vars() {
            if name.starts_with("ROSTER_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(&self.arguments)
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the log file twice"))
            .stderr(file)
            .spawn()
            .expect("the worker starts");
        Worker {
            builder: self,
            child,
            log,
            http_file,
            log_from: usize::try_from(log_from).unwrap_or(0),
            address: None,
        }
    }
}

/// A running worker. Killed when dropped; its log is shown if the test fails.
#[derive(Debug)]
pub struct Worker {
    builder: Builder,
    child: Child,
    log: PathBuf,
    http_file: PathBuf,
    /// Where in the log this process began to write.
    log_from: usize,
    address: Option<SocketAddr>,
}

impl Worker {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written to standard output and standard error.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `/readyz` says 200.
    pub async fn wait_ready(&mut self) {
        let name = self.builder.name.clone();
        eventually(&format!("{name} is ready"), async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                let log = self.log();
                panic!("{name} ended with {status} before it was ready:\n{log}");
            }
            match self.get("/readyz").await? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("/readyz says {status}: {body}")),
            }
        })
        .await;
    }

    /// Status and body of a GET on its HTTP port.
    pub async fn get(&mut self, path: &str) -> Result<(u16, String), String> {
        if self.address.is_none() {
            self.address = self.find_address();
        }
        let address = self.address.ok_or("it has not said where it listens")?;
        let answer = http::get(address, path).await;
        if answer.is_err() {
            // After a restart it may be the port of the process before.
            self.address = None;
        }
        answer
    }

    pub async fn metrics(&mut self) -> String {
        self.get("/metrics").await.expect("metrics").1
    }

    /// The value of one metric, summed over the label sets that contain all of `labels`.
    pub async fn metric(&mut self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.metrics().await, name, labels)
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGSTOP: the process stands still, its connections stay open.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits for the process to end by itself.
    pub async fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            assert!(start.elapsed() < limit, "{} still runs after {limit:?}", self.builder.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it again with the same settings and the same log, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.respawn();
        self.wait_ready().await;
    }

    /// Starts it again and does not wait.
    pub fn respawn(&mut self) {
        self.kill();
        *self = self.builder.clone().spawn();
    }

    /// Sets a variable for the next start.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.builder.variables.insert(name.to_owned(), value.to_string());
    }

    /// Takes a variable away for the next start.
    pub fn unset(&mut self, name: &str) {
        self.builder.variables.remove(name);
    }

    fn find_address(&self) -> Option<SocketAddr> {
        if let Ok(text) = std::fs::read_to_string(&self.http_file)
            && let Ok(address) = text.trim().parse()
        {
            return Some(address);
        }
        let log = self.log();
        log.get(self.log_from..)?.lines().rev().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let http = line.get("http").or_else(|| line.get("fields")?.get("http"));
            http?.as_str()?.parse().ok()
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            let name = &self.builder.name;
            eprintln!("--- log of {name}, last lines ---\n{}", tail.join("\n"));
        }
    }
}

/// Sums the samples of a metric in a Prometheus text whose labels contain all of `labels`.
pub fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn metrics_are_summed_over_labels() {
    let text = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3\nab 7\n";
    assert!((metric(text, "a", &[]) - 5.0).abs() < 0.1);
    assert!((metric(text, "a", &["x=\"2\""]) - 3.0).abs() < 0.1);
}
