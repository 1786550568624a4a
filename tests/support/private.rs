//! Servers of the suite's own, for tests that restart, freeze and misconfigure them. They are made on
//! first use, and go when the test process has ended, however it ends.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, raw_sql};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::broker;

/// A Postgres and a RabbitMQ under `scripts/services private`.
#[derive(Debug)]
pub struct Private {
    name: String,
    state: PathBuf,
    pub amqp_url: String,
    /// With rights to create databases.
    pub server_url: String,
}

/// One test at a time has the shared servers.
static TURN: Mutex<()> = Mutex::const_new(());

/// The shared pair, for one test at a time.
pub async fn shared() -> (&'static Private, MutexGuard<'static, ()>) {
    static SHARED: OnceLock<Private> = OnceLock::new();
    let turn = TURN.lock().await;
    let servers = SHARED.get_or_init(Private::up);
    servers.both_up().await;
    servers.usual_settings().await;
    (servers, turn)
}

impl Private {
    /// A pair of its own.
    pub fn up() -> Self {
        let mut servers = Self::prepare();
        let urls = servers.run_now(&["up", &servers.name]);
        servers.server_url = exported(&urls, "DATABASE_URL");
        servers.amqp_url = exported(&urls, "AMQP_URL");
        servers
    }

    /// Three RabbitMQ nodes in one cluster, `rabbitmq1` to `rabbitmq3`, and their addresses; no Postgres.
    pub fn cluster() -> (Self, [String; 3]) {
        let mut servers = Self::prepare();
        let urls = servers.run_now(&["cluster", &servers.name]);
        servers.amqp_url = exported(&urls, "AMQP_URL");
        let nodes = [1, 2, 3].map(|node| broker::address(&exported(&urls, &format!("AMQP_URL_{node}"))));
        (servers, nodes)
    }

    /// A name and a folder; nothing runs yet, and whatever will is taken down at the end.
    #[expect(clippy::zombie_processes, reason = "the watcher outlives this process")]
    fn prepare() -> Self {
        let name = format!("t{}", &Uuid::new_v4().simple().to_string()[..12]);
        let state = std::env::temp_dir().join(format!("roster-private-{name}"));
        let servers = Self { name, state, amqp_url: String::new(), server_url: String::new() };
        // A process of its own: a test process that is killed cannot clean up.
        let clean = r#"while kill -0 "$1" 2>/dev/null; do sleep 1; done
            scripts/services private down "$2"; rm -rf "$ROSTER_STATE""#;
        let watcher = Command::new("setsid")
            .args(["sh", "-c", clean, "sh", &std::process::id().to_string(), &servers.name])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("ROSTER_STATE", &servers.state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        watcher.expect("a process that cleans up");
        servers
    }

    fn command(&self) -> Command {
        let mut command = Command::new("scripts/services");
        command.arg("private").current_dir(env!("CARGO_MANIFEST_DIR")).env("ROSTER_STATE", &self.state);
        command
    }

    /// `scripts/services private <arguments>`, without a runtime.
    fn run_now(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().expect("scripts/services starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "private {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `scripts/services private <action> <name> <arguments>`; gives what it printed.
    pub async fn run(&self, action: &str, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::from(self.command());
        let output = command.arg(action).arg(&self.name).args(arguments).output().await;
        let output = output.expect("scripts/services starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "private {action} {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// start, stop, restart, immediate or kill, of `postgres`, `rabbitmq` and their like; gives how long
    /// that took.
    pub async fn ctl(&self, server: &str, action: &str) -> Duration {
        let begun = Instant::now();
        self.run("ctl", &[server, action]).await;
        begun.elapsed()
    }

    pub async fn rabbitmqctl(&self, arguments: &[&str]) -> String {
        let arguments = [&["rabbitmqctl"], arguments].concat();
        self.run("ctl", &arguments).await
    }

    /// Evaluates an Erlang expression on the broker.
    pub async fn eval(&self, expression: &str) -> String {
        self.rabbitmqctl(&["-q", "eval", &format!("{expression}.")]).await
    }

    /// Whatever an earlier test left: both run, and are awake.
    pub async fn both_up(&self) {
        for server in ["postgres", "rabbitmq"] {
            self.ctl(server, "start").await;
        }
    }

    /// Takes back what a test has set on either.
    pub async fn usual_settings(&self) {
        let usual = [
            "application:set_env(rabbit, consumer_timeout, 1800000)",
            "application:set_env(rabbit, channel_tick_interval, 60000)",
            "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 180000)",
            "rabbit_disk_monitor:set_disk_free_limit(\"50MB\")",
            "vm_memory_monitor:set_vm_memory_high_watermark(0.6)",
        ];
        self.eval(&usual.join(", ")).await;
        let mut session = PgConnection::connect(&self.server_url).await.expect("the suite's own Postgres");
        for statement in
            ["set default_transaction_read_only = off", "alter system reset all", "select pg_reload_conf()"]
        {
            raw_sql(statement).execute(&mut session).await.expect(statement);
        }
        let _ = session.close().await;
    }
}

/// The value of a line `export NAME=value`.
pub fn exported(text: &str, name: &str) -> String {
    let prefix = format!("export {name}=");
    let value = text.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
    value.unwrap_or_else(|| panic!("no {name} in {text:?}")).to_owned()
}
