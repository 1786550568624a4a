//! From a command to its reply: one at a time beside its floor, and at half of the top rate.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::oneshot;

use super::child::{Child, Worker};
use super::parts::Part;
use super::report::Report;
use super::{Bench, BenchError, throughput, workload};
use crate::infrastructure::rabbitmq::load::{Answer, Caller, Request};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// One at a time, a share of the messages tells enough.
const ONE_BY_ONE_SHARE: u64 = 40;
/// Sent before the first that counts: connections, plans and caches are warm then.
const WARM_UP: u64 = 20;

pub(super) async fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let count = (bench.plan.messages / ONE_BY_ONE_SHARE).max(20);
    bench.begin("latency, floor");
    let floor = floor(bench, count).await?;
    bench.begin("latency, one at a time");
    let calling = bench.stage.connect("calls").await?;
    let caller = Caller::open(&calling, &bench.stage.namespace, &bench.stage.user, true).await?;
    let child = Child::worker(bench.stage, Worker::of(bench.plan))?;
    let mut idle = histogram()?;
    for n in 0..WARM_UP + count {
        let took = once(&caller, &workload::rename(n, bench.plan.users)).await?;
        if n >= WARM_UP {
            record(&mut idle, took);
        }
        bench.progress.at(n, WARM_UP + count);
    }
    let rate = match report.median("batch") {
        Some(rate) => rate / 2.0,
        // Measured with its own worker, after this one has gone.
        None => {
            child.stop().await?;
            let rate = throughput::batch_rate(bench, "latency, top rate").await? / 2.0;
            return loaded(bench, report, &caller, None, rate, (floor, idle)).await;
        }
    };
    loaded(bench, report, &caller, Some(child), rate, (floor, idle)).await
}

async fn loaded(
    bench: &Bench<'_>,
    report: &mut Report,
    caller: &Caller,
    child: Option<Child>,
    rate: f64,
    (floor, idle): (Histogram<u64>, Histogram<u64>),
) -> Result<(), BenchError> {
    let child = match child {
        Some(child) => child,
        None => Child::worker(bench.stage, Worker::of(bench.plan))?,
    };
    for n in 0..WARM_UP {
        once(caller, &workload::rename(n, bench.plan.users)).await?;
    }
    bench.begin("latency, at half of the top rate");
    let busy = open_loop(bench, caller, rate, bench.plan.messages).await?;
    child.stop().await?;

    report.note("idle_floor_p50", "ms", at(&floor, 0.5));
    report.note("idle_p50", "ms", at(&idle, 0.5));
    report.note("idle_p99", "ms", at(&idle, 0.99));
    report.note("loaded_p50", "ms", at(&busy, 0.5));
    report.note("loaded_p99", "ms", at(&busy, 0.99));
    report.histogram("floor, one at a time", &floor);
    report.histogram("command, one at a time", &idle);
    report.histogram("command, at half of the top rate", &busy);
    Ok(())
}

/// One commit of one row, then one persistent command through the quorum queue to a bare server and its reply.
async fn floor(bench: &Bench<'_>, count: u64) -> Result<Histogram<u64>, BenchError> {
    let calling = bench.stage.connect("calls").await?;
    let caller = Caller::open(&calling, &bench.stage.namespace, &bench.stage.user, true).await?;
    let child = Child::part(bench.stage, Part::EchoCommands)?;
    let mut commits = bench.stage.database.floor().await?;
    let mut floor = histogram()?;
    for n in 0..WARM_UP + count {
        let begun = Instant::now();
        commits.one().await?;
        let committed = begun.elapsed();
        let took = committed + once(&caller, &workload::rename(n, bench.plan.users)).await?;
        if n >= WARM_UP {
            record(&mut floor, took);
        }
        bench.progress.at(n, WARM_UP + count);
    }
    child.stop().await?;
    Ok(floor)
}

/// Sends at a fixed rate, whatever comes back, and counts each wait from when the command was due to be sent: a
/// stall is charged to every command that it delayed.
async fn open_loop(
    bench: &Bench<'_>,
    caller: &Caller,
    rate: f64,
    count: u64,
) -> Result<Histogram<u64>, BenchError> {
    let gap = Duration::from_secs_f64(1.0 / rate.max(1.0));
    let begun = Instant::now();
    let mut waiting = Vec::new();
    let mut due = begun;
    for n in 0..count {
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
            bench.progress.at(n, count);
        }
        waiting.push((due, caller.call(&workload::rename(n, bench.plan.users)).await?));
        due += gap;
    }
    let mut busy = histogram()?;
    for (due, answer) in waiting {
        record(&mut busy, self::answer(answer).await?.at.saturating_duration_since(due));
    }
    Ok(busy)
}

/// One call, from before it is sent to its answer.
pub(super) async fn once(caller: &Caller, request: &Request) -> Result<Duration, BenchError> {
    let begun = Instant::now();
    let answer = answer(caller.call(request).await?).await?;
    Ok(answer.at.duration_since(begun))
}

pub(super) async fn answer(receiver: oneshot::Receiver<Answer>) -> Result<Answer, BenchError> {
    match tokio::time::timeout(PATIENCE, receiver).await {
        Ok(Ok(Answer { refused: false, at })) => Ok(Answer { refused: false, at }),
        Ok(Ok(_)) => Err(BenchError::Refused { what: "a call", count: 1 }),
        _ => Err(BenchError::Halted { what: "a call", done: 0, of: 1 }),
    }
}

/// Of microseconds, up to ten minutes, to three digits.
pub(super) fn histogram() -> Result<Histogram<u64>, BenchError> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

pub(super) fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

/// A quantile in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(super) fn at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}
