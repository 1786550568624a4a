//! Commands end to end: a backlog, a worker that drains it, and the time from the first reply to the last reply
//! and event.

use std::time::{Duration, Instant};

use super::child::{Child, Worker};
use super::parts::Part;
use super::report::Report;
use super::{Bench, BenchError, workload};
use crate::infrastructure::rabbitmq::load::{Caller, Subscriber};

/// Without any progress for this long, a run has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);
/// One transaction per command takes its time: a share of the backlog tells as much.
const SINGLE_SHARE: u64 = 4;
const SINGLE: Worker = Worker { lanes: Some(16), batch: Some(1), prefetch: None };

const SWEEP_LANES: [u32; 4] = [1, 2, 4, 8];
const SWEEP_BATCH: [u32; 4] = [64, 256, 512, 1024];

pub(super) async fn pipe(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let start = || Ok(vec![Child::part(bench.stage, Part::Pipe)?]);
    let rate = drain(bench, "pipe", bench.plan.messages, start).await?;
    report.note("pipe", "/s", rate);
    Ok(())
}

pub(super) async fn single(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let messages = (bench.plan.messages / SINGLE_SHARE).max(1);
    let rate = drain(bench, "single", messages, || Ok(vec![Child::worker(bench.stage, SINGLE)?])).await?;
    report.note("single", "/s", rate);
    Ok(())
}

pub(super) async fn batch(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let rate = batch_rate(bench, "batch").await?;
    report.note("batch", "/s", rate);
    Ok(())
}

/// A run of the worker, or of so many, as the plan sets it, or as it is by default.
pub(super) async fn batch_rate(bench: &Bench<'_>, what: &'static str) -> Result<f64, BenchError> {
    let worker = Worker::of(bench.plan);
    let start = || (0..bench.plan.replicas).map(|_| Child::worker(bench.stage, worker)).collect();
    drain(bench, what, bench.plan.messages, start).await
}

pub(super) async fn sweep(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    for lanes in SWEEP_LANES {
        for batch in SWEEP_BATCH {
            let worker = Worker { lanes: Some(lanes), batch: Some(batch), prefetch: bench.plan.prefetch };
            let messages = bench.plan.messages;
            let start = || Ok(vec![Child::worker(bench.stage, worker)?]);
            let rate = drain(bench, "sweep", messages, start).await?;
            report.sweep(lanes, batch, rate);
        }
    }
    Ok(())
}

/// Commands per second.
async fn drain(
    bench: &Bench<'_>,
    what: &'static str,
    messages: u64,
    start: impl FnOnce() -> Result<Vec<Child>, BenchError>,
) -> Result<f64, BenchError> {
    let Bench { stage, progress, plan, .. } = bench;
    // So that no run pays for the vacuum and the checkpoint of the one before.
    stage.database.tidy().await?;
    let (calling, subscribing) = (stage.connect("calls").await?, stage.connect("subscriber").await?);
    let caller = Caller::open(&calling, &stage.namespace, &stage.user, true).await?;
    let subscriber = Subscriber::open(&subscribing, &stage.namespace).await?;
    bench.begin(&format!("{what}, backlog"));
    let requests = (0..messages).map(|n| workload::rename(n, plan.users));
    caller.publish_all(requests, |sent| progress.at(sent, messages)).await?;

    bench.begin(what);
    let children = start()?;
    let arrived = || caller.replies.count().min(subscriber.events.count());
    let mut last = (0, Instant::now());
    while arrived() < messages {
        tokio::time::sleep(LOOK).await;
        let done = arrived();
        if done > last.0 {
            last = (done, Instant::now());
            progress.at(done, messages);
        } else if last.1.elapsed() > PATIENCE {
            return Err(BenchError::Halted { what, done, of: messages });
        }
    }
    for child in children {
        child.stop().await?;
    }
    let count = caller.replies.refused();
    if count > 0 {
        return Err(BenchError::Refused { what, count });
    }
    // What was answered and not acknowledged would come again: it was not done.
    let left = stage.commands_left().await?;
    if left > 0 {
        return Err(BenchError::LeftOver(left));
    }
    let spans = (caller.replies.span(), subscriber.events.span());
    let (Some((reply, last_reply)), Some((event, last_event))) = spans else { return Ok(0.0) };
    let span = last_reply.max(last_event).duration_since(reply.min(event));
    Ok(rate(messages, span))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(super) fn rate(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64().max(1e-9)
}
