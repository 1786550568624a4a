//! Workers killed, stopped and cut off in mid-load; the checker judges what is left.

use std::sync::Arc;
use std::time::Duration;

use rand::prelude::*;
use rstest::rstest;
use serde_json::json;

use crate::support::checker::judge;
use crate::support::load::Load;
use crate::support::proxy::Proxy;
use crate::support::random::{Mix, Plan, plan, seed};
use crate::support::{Stage, Subscriber, Worker, broker, eventually, tables};

const MIX: Mix = Mix { users: 12, commands: 600, wide: false };
const EFFECTS: [&str; 5] = ["I1", "I2", "I3", "I4", "I5"];

/// A stage under load: the users are made, the rest of the plan is on its way.
struct Run {
    plan: Plan,
    load: Arc<Load>,
    driving: tokio::task::JoinHandle<()>,
    subscriber: Subscriber,
}

impl Run {
    async fn start(stage: &Stage, mix: Mix) -> Self {
        let seed = seed();
        eprintln!("seed {seed}: ROSTER_TEST_SEED={seed} repeats it");
        let plan = plan(seed, mix, Some(broker::user()));
        let subscriber = stage.subscriber().await;
        let load = Arc::new(Load::new(stage, seed));
        load.drive(&plan.creations, 8).await;
        let driving = {
            let (load, steps) = (Arc::clone(&load), plan.steps.clone());
            tokio::spawn(async move { load.drive(&steps, 48).await })
        };
        Self { plan, load, driving, subscriber }
    }

    /// Waits until this part of the load is done.
    async fn reach(&self, share: f64) {
        let all = self.plan.creations.len() as f64 + self.plan.steps.len() as f64 * share;
        self.load.wait_done(all as usize).await;
    }

    /// Waits for the rest, reads everything back and judges it.
    async fn finish(self, stage: &Stage, worker: &mut Worker) {
        self.driving.await.expect("every command was seen through");
        let load = Arc::into_inner(self.load).expect("the load is over");
        let mut history = load.settle(stage, &self.subscriber).await;
        history.secrets = vec![self.plan.secret.clone()];
        history.places = tables::everything(&stage.pool).await;
        history.places.extend(stage.logs());
        let metrics = worker.metrics().await.into_bytes();
        history.places.push(("metrics".to_owned(), metrics));
        worker.terminate();
        worker.wait_exit(Duration::from_secs(60)).await;
        history.locks_after_shutdown = Some(tables::advisory_locks(&stage.pool).await);
        let report = judge(&history);
        eprintln!("{report}");
        report.assert_holds(&EFFECTS);
        report.assert_holds(&["I6", "I8", "I9"]);
    }
}

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
async fn connections_reset_under_load_lose_and_repeat_nothing() {
    let stage = Stage::new().await;
    let database = Proxy::start(&broker::address(&stage.database_url)).await;
    let rabbit = Proxy::start(&broker::address(&broker::url())).await;
    let builder = stage.worker().database_via(database.address);
    let mut worker = builder.amqp_via(rabbit.address).start().await;
    let run = Run::start(&stage, MIX).await;
    for (share, proxy) in [(0.1, &database), (0.3, &rabbit), (0.5, &database), (0.7, &rabbit)] {
        run.reach(share).await;
        proxy.reset();
    }
    database.cut_after(1000);
    run.reach(0.9).await;
    rabbit.cut_after(1000);
    run.finish(&stage, &mut worker).await;
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
