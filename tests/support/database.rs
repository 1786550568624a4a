//! Databases for the tests: each is a copy of one migrated template, which is kept on the server
//! for the next run of the same binary.

use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use uuid::Uuid;

use super::worker::Builder;

/// The server's address, with rights to create databases.
pub fn server_url() -> String {
    std::env::var("DATABASE_URL").unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned())
}

/// `url` with its database replaced.
pub fn with_database(url: &str, database: &str) -> String {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (url, None),
    };
    let authority = base.find("://").map_or(0, |at| at + 3);
    let base = match base[authority..].find('/') {
        Some(slash) => &base[..authority + slash],
        None => base,
    };
    match query {
        Some(query) => format!("{base}/{database}?{query}"),
        None => format!("{base}/{database}"),
    }
}

/// Makes a migrated database and returns its URL.
pub async fn create(server_url: &str, name: &str) -> String {
    let mut server = connect(server_url).await;
    let template = template(&mut server, server_url).await;
    let statement = format!("create database {name} template {template}");
    for _ in 0..300 {
        match execute(&mut server, &statement).await {
            Ok(()) => return with_database(server_url, name),
            // Two copies at once, or the migrating session is only just gone.
            Err(error) if error.contains("being accessed") || error.contains("already exists") => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{statement}: {error}"),
        }
    }
    panic!("{statement}: the template was in use for too long");
}

/// Makes an empty database and returns its URL.
pub async fn create_empty(server_url: &str, name: &str) -> String {
    let mut server = connect(server_url).await;
    let statement = format!("create database {name}");
    execute(&mut server, &statement).await.expect("the right to create databases");
    with_database(server_url, name)
}

/// Drops a database whoever is connected to it.
pub async fn drop(server_url: &str, name: &str) -> Result<(), String> {
    let mut server = connect(server_url).await;
    execute(&mut server, &format!("drop database if exists {name} with (force)")).await
}

/// A few connections to one database, for reading back what the worker wrote.
pub fn pool(url: &str) -> PgPool {
    let options = PgConnectOptions::from_str(url).expect("a Postgres URL");
    PgPoolOptions::new()
        .max_connections(3)
        .acquire_timeout(Duration::from_secs(30))
        .connect_lazy_with(options.application_name("roster-tests"))
}

/// A name that tells when it was made, so that what a killed run left behind can be found.
pub fn fresh_name() -> String {
    format!("roster_t_{}", Uuid::now_v7().simple())
}

/// The template for this binary, migrated by it once. An advisory lock keeps test processes that
/// start together from making it twice.
async fn template(server: &mut PgConnection, server_url: &str) -> String {
    let binary = env!("CARGO_BIN_EXE_roster");
    let path_part = format!("roster_tt_{:08x}_", hash(binary));
    let modified = std::fs::metadata(binary)
        .and_then(|metadata| metadata.modified())
        .unwrap_or(SystemTime::now())
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let name = format!("{path_part}{:x}", modified.as_millis());
    execute(server, "select pg_advisory_lock(7265417)").await.expect("the template's lock");
    if !databases(server, "roster_tt_").await.contains(&name) {
        sweep(server, &path_part).await;
        let building = format!("{name}_b");
        let _ = execute(server, &format!("drop database if exists {building} with (force)")).await;
        execute(server, &format!("create database {building}")).await.expect("the right to create databases");
        prepare(&with_database(server_url, &building)).await;
        execute(server, &format!("alter database {building} rename to {name}"))
            .await
            .expect("the template renamed");
    }
    execute(server, "select pg_advisory_unlock(7265417)").await.expect("the template's lock given back");
    name
}

/// Migrates, and lets a worker run until it is ready: it makes the partitions, which take time.
async fn prepare(url: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_roster"))
        .args(["migrate", "up"])
        .env("DATABASE_URL", url)
        .env("ROSTER_SECRET", super::worker::SECRET)
        .output()
        .expect("roster migrate up starts");
    assert!(
        output.status.success(),
        "roster migrate up: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let namespace = format!("t{}", Uuid::new_v4().simple());
    let folder = std::env::temp_dir().join(format!("roster-{namespace}"));
    std::fs::create_dir_all(&folder).expect("a folder for logs");
    let builder = Builder::new(&folder, "template".to_owned(), url, &super::broker::url(), &namespace);
    let mut worker = builder.start().await;
    worker.terminate();
    worker.wait_exit(super::PATIENCE).await;
    let _ = super::broker::delete(&super::broker::url(), &namespace, &[]).await;
    let _ = std::fs::remove_dir_all(folder);
}

/// Drops templates of earlier builds, and what killed runs left an hour ago or earlier.
async fn sweep(server: &mut PgConnection, path_part: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let old = databases(server, "roster_t_").await.into_iter().filter(|name| {
        let made = name
            .strip_prefix("roster_t_")
            .and_then(|id| Uuid::from_str(id).ok())
            .and_then(|id| id.get_timestamp());
        made.is_some_and(|made| made.to_unix().0 + 3600 < now.as_secs())
    });
    let old: Vec<String> = old.collect();
    for name in databases(server, path_part).await.into_iter().chain(old) {
        let _ = execute(server, &format!("drop database if exists {name} with (force)")).await;
    }
}

async fn databases(server: &mut PgConnection, prefix: &str) -> Vec<String> {
    sqlx::query("select datname::text from pg_database where starts_with(datname::text, $1)")
        .bind(prefix)
        .fetch_all(server)
        .await
        .expect("the list of databases")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

async fn connect(url: &str) -> PgConnection {
    let options =
        PgConnectOptions::from_str(url).expect("DATABASE_URL is a Postgres URL").disable_statement_logging();
    for _ in 0..100 {
        match PgConnection::connect_with(&options).await {
            Ok(connection) => return connection,
            // The server is shared, and may for a moment have no connection left.
            Err(error) if error.to_string().contains("too many clients") => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("the tests need Postgres at DATABASE_URL: {error}"),
        }
    }
    panic!("Postgres had no connection to spare for 10 s");
}

async fn execute(server: &mut PgConnection, statement: &str) -> Result<(), String> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(server)
        .await
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// FNV-1a, enough to tell two checkouts apart.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[test]
fn a_database_is_put_into_a_url() {
    assert_eq!(with_database("postgres://u:p@h:1/a", "b"), "postgres://u:p@h:1/b");
    assert_eq!(with_database("postgres://h", "b"), "postgres://h/b");
    assert_eq!(with_database("postgres://h/a?sslmode=off", "b"), "postgres://h/b?sslmode=off");
}
