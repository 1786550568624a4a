//! A seeded load on a stage from its first command to the checker's verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::checker::{Report, judge};
use super::history::Sample;
use super::load::Load;
use super::random::{Mix, Plan, plan, seed};
use super::{Stage, Subscriber, Worker, broker, eventually, tables};

/// What most fault tests send.
pub const MIX: Mix = Mix { users: 12, commands: 600, wide: false };
const EFFECTS: [&str; 5] = ["I1", "I2", "I3", "I4", "I5"];

/// A stage under load: the users are made, the rest of the plan is on its way.
pub struct Run {
    pub plan: Plan,
    load: Arc<Load>,
    driving: tokio::task::JoinHandle<()>,
    /// Ends a steady load.
    stop: Arc<AtomicBool>,
    subscriber: Subscriber,
}

impl Run {
    pub async fn start(stage: &Stage, mix: Mix) -> Self {
        let seed = seed();
        eprintln!("seed {seed}: ROSTER_TEST_SEED={seed} repeats it");
        Self::with_plan(stage, plan(seed, mix, Some(broker::user_in(&stage.amqp_url)))).await
    }

    /// Makes the plan's users and sets the rest of it going.
    pub async fn with_plan(stage: &Stage, plan: Plan) -> Self {
        let load = Load::new(stage, plan.seed);
        Self::with_load(stage, plan, load).await
    }

    /// The same with another patience.
    pub async fn with_load(stage: &Stage, plan: Plan, load: Load) -> Self {
        let subscriber = stage.subscriber().await;
        let load = Arc::new(load);
        load.drive(&plan.creations, 8).await;
        let driving = {
            let (load, steps) = (Arc::clone(&load), plan.steps.clone());
            tokio::spawn(async move { load.drive(&steps, 48).await })
        };
        Self { plan, load, driving, stop: Arc::default(), subscriber }
    }

    /// A load that goes on at `rate` commands per second until it is judged. The subscriber's queue outlives a
    /// node of the broker.
    pub async fn steady(stage: &Stage, mix: Mix, rate: u32) -> Self {
        let seed = seed();
        eprintln!("seed {seed}: ROSTER_TEST_SEED={seed} repeats it");
        let plan = plan(seed, mix, Some(broker::user_in(&stage.amqp_url)));
        let subscriber = stage.replicated_subscriber().await;
        let load = Arc::new(Load::new(stage, seed));
        load.drive(&plan.creations, 8).await;
        let stop = Arc::<AtomicBool>::default();
        let driving = {
            let (load, steps, stop) = (Arc::clone(&load), plan.steps.clone(), Arc::clone(&stop));
            tokio::spawn(async move { load.drive_until(&steps, 64, rate, &stop).await })
        };
        Self { plan, load, driving, stop, subscriber }
    }

    /// Waits until `count` more commands are done.
    pub async fn more(&self, count: usize) {
        self.load.wait_done(self.load.done.load(Ordering::Relaxed) + count).await;
    }

    /// The longest time without a command done, while something happens.
    pub async fn longest_pause<T>(&self, happening: impl Future<Output = T>) -> (T, Duration) {
        let done = || self.load.done.load(Ordering::Relaxed);
        let (mut seen, mut since, mut longest) = (done(), Instant::now(), Duration::ZERO);
        let mut happening = std::pin::pin!(happening);
        loop {
            tokio::select! {
                happened = &mut happening => return (happened, longest.max(since.elapsed())),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
            if done() > seen {
                longest = longest.max(since.elapsed());
                (seen, since) = (done(), Instant::now());
            }
        }
    }

    /// Waits until this part of the load is done.
    pub async fn reach(&self, share: f64) {
        let all = self.plan.creations.len() as f64 + self.plan.steps.len() as f64 * share;
        self.load.wait_done(all as usize).await;
    }

    /// Waits until some command has failed and is kept.
    pub async fn kept(&self, stage: &Stage) {
        eventually("a command is kept", async || {
            let failed = tables::failed(&stage.pool).await;
            match failed.iter().any(|row| row.state == "waiting") {
                true => Ok(()),
                false => Err(format!("{} others", failed.len())),
            }
        })
        .await;
    }

    /// Waits for the rest, reads everything back and judges it.
    pub async fn finish(self, stage: &Stage, worker: &mut Worker) {
        let report = self.report(stage, worker).await;
        report.assert_holds(&EFFECTS);
        report.assert_holds(&["I6", "I8", "I9"]);
    }

    /// Waits for the rest, reads everything back and says what the checker finds.
    pub async fn report(self, stage: &Stage, worker: &mut Worker) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.driving.await.expect("every command was seen through");
        let load = Arc::into_inner(self.load).expect("the load is over");
        report(load, &self.plan, &self.subscriber, stage, worker).await
    }
}

/// Reads everything back after a load, stops the last worker, and says what the checker finds.
pub async fn report(
    load: Load,
    plan: &Plan,
    subscriber: &Subscriber,
    stage: &Stage,
    worker: &mut Worker,
) -> Report {
    let mut history = load.settle(stage, subscriber).await;
    history.secrets = vec![plan.secret.clone()];
    history.places = tables::everything(&stage.pool).await;
    history.places.extend(stage.logs());
    let metrics = worker.metrics().await.into_bytes();
    history.places.push(("metrics".to_owned(), metrics));
    let connections = tables::connections(&stage.pool).await;
    history.samples = vec![Sample { resident_kib: worker.resident().unwrap_or_default(), connections }];
    history.bounds = Some(Sample { resident_kib: 512 * 1024, connections: 80 });
    worker.terminate();
    worker.wait_exit(Duration::from_secs(60)).await;
    history.locks_after_shutdown = Some(tables::advisory_locks(&stage.pool).await);
    let report = judge(&history);
    eprintln!("{report}");
    report
}
