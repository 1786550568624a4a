//! `user.get.v1` under load, beside a bare server that only answers, on the same queue with the same caller.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;

use super::child::{Child, Worker};
use super::parts::Part;
use super::report::Report;
use super::{Bench, BenchError, latency, throughput, workload};
use crate::infrastructure::rabbitmq::load::Caller;

/// Queries under way at a time.
const AT_A_TIME: u64 = 128;

pub(super) async fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let (echo, _) =
        under_load(bench, "queries, bare echo", || Child::part(bench.stage, Part::EchoQueries)).await?;
    report.note("echo", "/s", echo);
    let worker = Worker::of(bench.plan);
    let (get, waits) =
        under_load(bench, "queries, user.get.v1", || Child::worker(bench.stage, worker)).await?;
    report.note("get", "/s", get);
    report.histogram("user.get.v1, 128 at a time", &waits);
    Ok(())
}

/// Answers per second, and how long each took.
async fn under_load(
    bench: &Bench<'_>,
    what: &'static str,
    start: impl FnOnce() -> Result<Child, BenchError>,
) -> Result<(f64, Histogram<u64>), BenchError> {
    bench.begin(what);
    let Bench { stage, plan, progress, .. } = bench;
    let calling = stage.connect("calls").await?;
    let caller = Caller::open(&calling, &stage.namespace, &stage.user, false).await?;
    let child = start()?;
    for n in 0..AT_A_TIME {
        latency::once(&caller, &workload::get(n, plan.users)).await?;
    }
    let next = AtomicU64::new(0);
    let begun = Instant::now();
    let callers = (0..AT_A_TIME).map(|_| async {
        let mut waits = latency::histogram()?;
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= plan.messages {
                return Ok::<_, BenchError>(waits);
            }
            latency::record(&mut waits, latency::once(&caller, &workload::get(n, plan.users)).await?);
            progress.at(n, plan.messages);
        }
    });
    let all = try_join_all(callers).await?;
    let rate = throughput::rate(plan.messages, begun.elapsed());
    child.stop().await?;
    let mut waits = latency::histogram()?;
    for one in all {
        // All have the same bounds.
        let _ = waits.add(one);
    }
    Ok((rate, waits))
}
