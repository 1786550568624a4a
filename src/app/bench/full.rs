//! What takes long: many users, an open transaction, a long backlog, queries while passwords are hashed.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::child::{Child, Worker};
use super::report::Report;
use super::{Bench, BenchError, Full, latency, throughput, workload};
use crate::infrastructure::rabbitmq::load::{Caller, Subscriber};

/// Queries sent one at a time, after as many that do not count as a worker needs to settle down.
const QUERIES: u64 = 5000;
const WARM_UP: u64 = 250;
/// Creates under way while they are.
const CREATES: usize = 32;
/// How long the worker's memory is watched, and how often looked at.
const WATCH: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn measure(bench: &Bench<'_>, full: Full, report: &mut Report) -> Result<(), BenchError> {
    for _ in 0..bench.plan.rounds {
        under_hashing(bench, report).await?;
    }
    held_transaction(bench, full, report).await?;
    backlog(bench, full, report).await?;
    // Last, because the users stay.
    million_users(bench, full, report).await
}

async fn under_hashing(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    bench.begin("queries, nothing else");
    let Bench { stage, plan, .. } = bench;
    let connection = stage.connect("calls").await?;
    let asking = Caller::open(&connection, &stage.namespace, &stage.user, false).await?;
    let other = stage.connect("creates").await?;
    let creating = Caller::open(&other, &stage.namespace, &stage.user, true).await?;
    let child = Child::worker(stage, Worker::of(plan))?;
    let idle = queries(bench, &asking).await?;
    bench.begin("queries while passwords are hashed");
    let creates = async {
        let mut waiting = std::collections::VecDeque::new();
        loop {
            waiting.push_back(creating.call(&workload::create()).await?);
            if waiting.len() > CREATES
                && let Some(first) = waiting.pop_front()
            {
                latency::answer(first).await?;
            }
        }
    };
    let busy: Result<Histogram<u64>, BenchError> = tokio::select! {
        busy = queries(bench, &asking) => busy,
        broken = creates => broken,
    };
    let busy = busy?;
    drop(creating);
    child.stop().await?;
    // What was under way is left behind, and is nobody's any more.
    stage.empty_commands().await?;
    report.histogram("user.get.v1, nothing else", &idle);
    report.histogram("user.get.v1 while passwords are hashed", &busy);
    let (idle, busy) = (latency::at(&idle, 0.99), latency::at(&busy, 0.99));
    report.note("get_p99_idle", "ms", idle);
    report.note("get_p99_hashing", "ms", busy);
    report.ratio("get_p99_under_hashing", busy / idle);
    Ok(())
}

async fn queries(bench: &Bench<'_>, caller: &Caller) -> Result<Histogram<u64>, BenchError> {
    let mut waits = latency::histogram()?;
    for n in 0..WARM_UP + QUERIES {
        let took = latency::once(caller, &workload::get(n, bench.plan.users)).await?;
        if n >= WARM_UP {
            latency::record(&mut waits, took);
        }
        bench.progress.at(n, WARM_UP + QUERIES);
    }
    Ok(waits)
}

async fn held_transaction(bench: &Bench<'_>, full: Full, report: &mut Report) -> Result<(), BenchError> {
    let mut before = Vec::new();
    for _ in 0..bench.plan.rounds {
        before.push(throughput::batch_rate(bench, "before a transaction is open").await?);
    }
    let held = bench.stage.database.hold_transaction().await?;
    bench.begin("a transaction is open");
    let begun = Instant::now();
    // What it holds up is what was written meanwhile: the worker goes on.
    while begun.elapsed() < full.hold {
        throughput::batch_rate(bench, "while a transaction is open").await?;
    }
    let mut with = Vec::new();
    for _ in 0..bench.plan.rounds {
        with.push(throughput::batch_rate(bench, "with an open transaction").await?);
    }
    drop(held);
    // In five minutes the machine's own speed changes, too: compared with the mean of before and after.
    for (before, with) in before.into_iter().zip(with) {
        let after = throughput::batch_rate(bench, "after it has ended").await?;
        report.note("batch_before_held", "/s", before);
        report.note("batch_held", "/s", with);
        report.note("batch_after_held", "/s", after);
        report.ratio("held_transaction", with / f64::midpoint(before, after));
    }
    Ok(())
}

async fn million_users(bench: &Bench<'_>, full: Full, report: &mut Report) -> Result<(), BenchError> {
    let mut few = Vec::new();
    for _ in 0..bench.plan.rounds {
        few.push(throughput::batch_rate(bench, "few users").await?);
    }
    bench.begin("adding users and events");
    bench.stage.database.add_users(bench.plan.users, full.users.max(bench.plan.users)).await?;
    bench.stage.database.add_events(full.events, full.users).await?;
    let plan = super::Plan { users: full.users.max(bench.plan.users), ..bench.plan.clone() };
    let many = Bench { plan: &plan, label: String::new(), ..*bench };
    for few in few {
        let rate = throughput::batch_rate(&many, "many users").await?;
        report.note("batch_many_users", "/s", rate);
        report.ratio("million_users", rate / few);
    }
    Ok(())
}

/// The most memory that the worker takes while it works on a long backlog.
async fn backlog(bench: &Bench<'_>, full: Full, report: &mut Report) -> Result<(), BenchError> {
    bench.begin("a long backlog");
    let Bench { stage, plan, progress, .. } = bench;
    let (calling, subscribing) = (stage.connect("calls").await?, stage.connect("subscriber").await?);
    let caller = Caller::open(&calling, &stage.namespace, &stage.user, true).await?;
    let _subscriber = Subscriber::open(&subscribing, &stage.namespace).await?;
    let requests = (0..full.waiting).map(|n| workload::rename(n, plan.users));
    caller.publish_all(requests, |sent| progress.at(sent, full.waiting)).await?;
    bench.begin("memory");
    let child = Child::worker(stage, Worker::of(plan))?;
    let begun = Instant::now();
    let mut most = 0.0_f64;
    while begun.elapsed() < WATCH && caller.replies.count() < full.waiting {
        tokio::time::sleep(LOOK).await;
        most = child.resident().map_or(most, |resident| resident.max(most));
    }
    child.stop().await?;
    stage.empty_commands().await?;
    report.note("resident", "MiB", most);
    report.ratio("rss_mib_backlog", most);
    Ok(())
}
