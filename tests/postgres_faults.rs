//! A Postgres that is restarted, frozen, read-only, away or full. On a server of the suite's own, one
//! test at a time.

use std::str::FromStr;
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, raw_sql};

use crate::support::private::{self, Private};
use crate::support::random::Mix;
use crate::support::run::Run;
use crate::support::{PATIENCE, Stage, broker, eventually, tables};

const SMALL: Mix = Mix { users: 6, commands: 200, wide: false };

/// The database is the suite's own, the broker the usual one.
async fn stage_on(servers: &Private) -> Stage {
    Stage::on_servers(broker::url(), servers.server_url.clone()).await
}

async fn statement(servers: &Private, statement: &'static str) {
    let mut session = PgConnection::connect(&servers.server_url).await.unwrap();
    raw_sql(statement).execute(&mut session).await.unwrap();
    session.close().await.unwrap();
}

#[rstest]
#[case::row_21_restarted("restart")]
#[case::row_21_crashed("immediate")]
#[case::row_23_away("stop")]
#[case::row_19_frozen("freeze")]
#[case::row_22_read_only("read only")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_comes_back_costs_nothing(#[case] fault: &str) {
    let (servers, _turn) = private::shared().await;
    let stage = stage_on(servers).await;
    let (mut worker, mut other) = (stage.worker().start().await, stage.worker().start().await);
    let run = Run::start(&stage, SMALL).await;
    run.reach(0.3).await;
    match fault {
        "stop" => {
            servers.ctl("postgres", "stop").await;
            eventually("it is not ready", async || match worker.get("/readyz").await? {
                (200, body) => Err(body),
                _ => Ok(()),
            })
            .await;
            assert_eq!(worker.get("/livez").await.unwrap().0, 200);
            tokio::time::sleep(Duration::from_secs(8)).await;
            servers.ctl("postgres", "start").await;
        }
        "freeze" => {
            servers.run("freeze", &["postgres"]).await;
            tokio::time::sleep(Duration::from_secs(8)).await;
            servers.run("thaw", &["postgres"]).await;
        }
        "read only" => {
            statement(servers, "alter system set default_transaction_read_only = on").await;
            statement(servers, "select pg_reload_conf()").await;
            tokio::time::sleep(Duration::from_secs(4)).await;
            servers.usual_settings().await;
        }
        action => drop(servers.ctl("postgres", action).await),
    }
    let begun = Instant::now();
    worker.wait_ready().await;
    other.wait_ready().await;
    eprintln!("postgres {fault}: ready {:.1} s after it", begun.elapsed().as_secs_f64());
    other.terminate();
    assert_eq!(other.wait_exit(PATIENCE).await.code(), Some(0));
    run.finish(&stage, &mut worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_24_without_a_free_connection_it_waits_and_goes_on() {
    let (servers, _turn) = private::shared().await;
    statement(servers, "alter system set max_connections = 30").await;
    servers.ctl("postgres", "restart").await;
    let stage = stage_on(servers).await;
    let mut worker = stage.worker().start().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    // What is free first, then what the worker had.
    let options = PgConnectOptions::from_str(&servers.server_url).unwrap().disable_statement_logging();
    let mut hogs = Vec::new();
    while let Ok(hog) = options.connect().await {
        hogs.push(hog);
    }
    let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where application_name in ('roster', 'roster-tests')";
    raw_sql(terminate).execute(&mut hogs[0]).await.unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        match options.connect().await {
            Ok(hog) => hogs.push(hog),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    let update = caller.request("user.update.v1", json!({ "id": id, "name": "Countess" }));
    caller.send(&update).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(hogs);
    assert_eq!(caller.reply(&update).await.version(), 2);
    worker.wait_ready().await;
    assert!(tables::failed(&stage.pool).await.iter().all(|row| row.state != "dead"));
    drop((worker, stage));
    servers.usual_settings().await;
    servers.ctl("postgres", "restart").await;
}
