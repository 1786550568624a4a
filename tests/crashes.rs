//! Workers killed, stopped and cut off in mid-load; the checker judges what is left.

use std::time::Duration;

use rand::prelude::*;
use rstest::rstest;
use serde_json::json;

use crate::support::proxy::Proxy;
use crate::support::run::{MIX, Run};
use crate::support::{Stage, broker, eventually, tables};

#[rstest]
#[case::alone(false)]
#[case::beside_another(true)]
#[tokio::test]
async fn a_worker_killed_in_mid_load_loses_and_repeats_nothing(#[case] two: bool) {
    let (stage, mut worker) = Stage::with_worker().await;
    let mut other = match two {
        true => Some(stage.worker().start().await),
        false => None,
    };
    let run = Run::start(&stage, MIX).await;
    let mut rng = StdRng::seed_from_u64(run.plan.seed);
    for share in [0.1, 0.3, 0.5, 0.7] {
        run.reach(share).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..30))).await;
        worker.restart().await;
    }
    if let Some(other) = &mut other {
        other.terminate();
        let status = other.wait_exit(Duration::from_secs(60)).await;
        assert_eq!(status.code(), Some(0));
    }
    run.finish(&stage, &mut worker).await;
}

#[tokio::test]
async fn a_worker_told_to_stop_under_load_finishes_and_exits_with_0() {
    let (stage, mut worker) = Stage::with_worker().await;
    let run = Run::start(&stage, MIX).await;
    for share in [0.2, 0.6] {
        run.reach(share).await;
        worker.terminate();
        let status = worker.wait_exit(Duration::from_secs(60)).await;
        assert_eq!(status.code(), Some(0));
        assert_eq!(tables::advisory_locks(&stage.pool).await, 0, "locks are given back");
        worker.restart().await;
    }
    run.finish(&stage, &mut worker).await;
}

#[tokio::test]
async fn a_second_signal_ends_the_worker_at_once() {
    let stage = Stage::new().await;
    let proxy = Proxy::start(&broker::address(&stage.database_url)).await;
    let builder = stage.worker().database_via(proxy.address);
    let mut worker = builder.env("ROSTER_SHUTDOWN_GRACE", "600s").start().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    // A command that cannot end keeps the first signal waiting.
    proxy.black_hole();
    let stuck = caller.request("user.update.v1", json!({ "id": id, "name": "Stuck" }));
    caller.send(&stuck).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    worker.terminate();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(worker.is_running(), "it waits for what it has begun");
    worker.terminate();
    let status = worker.wait_exit(Duration::from_secs(20)).await;
    assert_ne!(status.code(), Some(0));
    proxy.heal();
    worker.restart().await;
    assert_eq!(caller.reply(&stuck).await.version(), 2);
}

#[tokio::test]
async fn a_worker_without_load_stops_at_once_with_0() {
    let (stage, mut worker) = Stage::with_worker().await;
    worker.terminate();
    let status = worker.wait_exit(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(tables::advisory_locks(&stage.pool).await, 0);
}

#[tokio::test]
async fn without_postgres_a_worker_is_not_ready_burns_nothing_and_resumes() {
    let stage = Stage::new().await;
    let proxy = Proxy::start(&broker::address(&stage.database_url)).await;
    let mut worker = stage.worker().database_via(proxy.address).start().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    proxy.refuse();
    proxy.reset();
    let updates: Vec<_> = (0..30)
        .map(|n| {
            let body = json!({ "id": id, "name": format!("Name {n}") });
            caller.request("user.update.v1", body)
        })
        .collect();
    for update in &updates {
        caller.send(update).await;
    }
    eventually("it says that it is not ready", async || match worker.get("/readyz").await? {
        (200, body) => Err(body),
        (_, body) => Ok(body),
    })
    .await;
    assert_eq!(worker.get("/livez").await.unwrap().0, 200);
    proxy.heal();
    for update in &updates {
        caller.reply(update).await.data();
    }
    worker.wait_ready().await;
    let users = tables::users(&stage.pool).await;
    assert_eq!(users[0].version, 31);
    assert!(tables::failed(&stage.pool).await.iter().all(|row| row.state != "dead"));
}

#[tokio::test]
async fn a_frozen_worker_that_wakes_up_late_changes_nothing() {
    let (stage, mut worker) = Stage::with_worker().await;
    let run = Run::start(&stage, MIX).await;
    run.reach(0.2).await;
    worker.freeze();
    let mut other = stage.worker().start().await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    worker.thaw();
    run.reach(0.9).await;
    other.terminate();
    assert_eq!(other.wait_exit(Duration::from_secs(60)).await.code(), Some(0));
    run.finish(&stage, &mut worker).await;
}
