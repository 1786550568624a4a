//! One test's world: a database and a broker namespace of its own, the workers in it, and the
//! callers and subscribers around it. All of it is gone when the stage is dropped.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::PgPool;
use uuid::Uuid;

use super::caller::Caller;
use super::subscriber::Subscriber;
use super::worker::{self, Builder, Worker};
use super::{broker, database};

#[derive(Debug)]
pub struct Stage {
    pub namespace: String,
    pub amqp_url: String,
    pub database_url: String,
    pub pool: PgPool,
    server_url: String,
    database: String,
    folder: PathBuf,
    workers: AtomicUsize,
    queues: Mutex<Vec<String>>,
}

impl Stage {
    pub async fn new() -> Self {
        Self::on_servers(broker::url(), database::server_url()).await
    }

    /// A stage on any servers.
    pub async fn on_servers(amqp_url: String, server_url: String) -> Self {
        let database = database::fresh_name();
        let database_url = database::create(&server_url, &database).await;
        Self::on(amqp_url, server_url, database, database_url)
    }

    /// A stage whose database is empty.
    pub async fn unmigrated() -> Self {
        let database = database::fresh_name();
        let server_url = database::server_url();
        let database_url = database::create_empty(&server_url, &database).await;
        Self::on(broker::url(), server_url, database, database_url)
    }

    fn on(amqp_url: String, server_url: String, database: String, database_url: String) -> Self {
        let namespace = format!("t{}", Uuid::new_v4().simple());
        let folder = std::env::temp_dir().join(format!("roster-{namespace}"));
        std::fs::create_dir_all(&folder).expect("a folder for logs");
        Self {
            pool: database::pool(&database_url),
            namespace,
            amqp_url,
            database_url,
            server_url,
            database,
            folder,
            workers: AtomicUsize::new(0),
            queues: Mutex::default(),
        }
    }

    /// A stage with one ready worker of the usual settings.
    pub async fn with_worker() -> (Self, Worker) {
        let stage = Self::new().await;
        let worker = stage.worker().start().await;
        (stage, worker)
    }

    /// Another worker on this stage, to be adjusted and started.
    pub fn worker(&self) -> Builder {
        let number = self.workers.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("worker-{number}");
        Builder::new(&self.folder, name, &self.database_url, &self.amqp_url, &self.namespace)
    }

    /// A caller that names itself with the URL's user: a service, by default an admin.
    pub async fn service(&self) -> Caller {
        Caller::connect(&self.amqp_url, &self.namespace, Some(broker::user_in(&self.amqp_url))).await
    }

    /// A caller without any identity.
    pub async fn anonymous(&self) -> Caller {
        Caller::connect(&self.amqp_url, &self.namespace, None).await
    }

    /// A subscriber to every event from now on.
    pub async fn subscriber(&self) -> Subscriber {
        self.subscribe(false).await
    }

    /// The same with a queue that outlives a node of the broker.
    pub async fn replicated_subscriber(&self) -> Subscriber {
        self.subscribe(true).await
    }

    async fn subscribe(&self, replicated: bool) -> Subscriber {
        let queue = format!("{}.watch.{}", self.namespace, Uuid::new_v4().simple());
        self.remember_queue(&queue);
        Subscriber::start(&self.amqp_url, &self.namespace, &queue, replicated).await
    }

    /// A queue to be deleted with the stage.
    pub fn remember_queue(&self, queue: &str) {
        let queues = self.queues.lock();
        queues.expect("the list of queues").push(queue.to_owned());
    }

    pub fn object(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// Runs the command line against this stage and returns what it said.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_roster"))
            .args(arguments)
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", &self.amqp_url)
            .env("ROSTER_NAMESPACE", &self.namespace)
            .env("ROSTER_SECRET", worker::SECRET)
            .output()
            .expect("the command line starts")
    }

    /// What every worker of this stage has logged, by file.
    pub fn logs(&self) -> Vec<(String, Vec<u8>)> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten();
        files
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|end| end == "log"))
            .map(|file| {
                let name = file.file_name().to_string_lossy().into_owned();
                (name, std::fs::read(file.path()).unwrap_or_default())
            })
            .collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let database = self.database.clone();
        let namespace = self.namespace.clone();
        let (amqp_url, server_url) = (self.amqp_url.clone(), self.server_url.clone());
        let queues = self.queues.lock().map(|queues| queues.clone());
        let queues = queues.unwrap_or_default();
        let failed = std::thread::panicking();
        // A runtime of its own: the test's is already inside its last poll.
        let cleanup = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for cleaning up");
            runtime.block_on(async {
                let (objects, data) = tokio::join!(
                    broker::delete(&amqp_url, &namespace, &queues),
                    database::drop(&server_url, &database)
                );
                for left in [objects, data].into_iter().filter_map(Result::err) {
                    eprintln!("not cleaned up: {left}");
                }
            });
        });
        let _ = cleanup.join();
        match failed {
            true => eprintln!("logs are kept in {}", self.folder.display()),
            false => drop(std::fs::remove_dir_all(&self.folder)),
        }
    }
}
