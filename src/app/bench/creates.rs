//! `user.create.v1` beside argon2 alone on all cores.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::child::{Child, Worker};
use super::report::Report;
use super::{Bench, BenchError, latency, throughput, workload};
use crate::application::ports::Passwords as _;
use crate::infrastructure::passwords::Argon2Passwords;
use crate::infrastructure::rabbitmq::load::Caller;

/// A hash takes some 20 ms: a share of the messages tells enough.
const SHARE: u64 = 50;
/// Creates under way at a time.
const AT_A_TIME: usize = 64;

pub(super) async fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let count = (bench.plan.messages / SHARE).max(10);
    // Half before and half after, for a machine whose speed changes meanwhile.
    let before = hash_alone(bench, count / 2).await?;
    bench.begin("user.create.v1");
    let calling = bench.stage.connect("calls").await?;
    let caller = Caller::open(&calling, &bench.stage.namespace, &bench.stage.user, true).await?;
    let child = Child::worker(bench.stage, Worker::of(bench.plan))?;
    latency::once(&caller, &workload::create()).await?;
    let begun = Instant::now();
    let mut waiting = VecDeque::new();
    for n in 0..count {
        if waiting.len() >= AT_A_TIME
            && let Some(first) = waiting.pop_front()
        {
            latency::answer(first).await?;
        }
        waiting.push_back(caller.call(&workload::create()).await?);
        bench.progress.at(n, count);
    }
    for answer in waiting {
        latency::answer(answer).await?;
    }
    report.note("create", "/s", throughput::rate(count, begun.elapsed()));
    child.stop().await?;
    let after = hash_alone(bench, count - count / 2).await?;
    report.note("hash", "/s", throughput::rate(count, before + after));
    Ok(())
}

async fn hash_alone(bench: &Bench<'_>, count: u64) -> Result<Duration, BenchError> {
    bench.begin("argon2 alone");
    let passwords = Argon2Passwords::default();
    let password = "correct horse battery".into();
    passwords.hash(&password).await?;
    let begun = Instant::now();
    try_join_all((0..count).map(|_| passwords.hash(&password))).await?;
    Ok(begun.elapsed())
}
