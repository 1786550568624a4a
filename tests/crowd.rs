//! More password hashes at once than there are processors for.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use crate::support::proxy::Proxy;
use crate::support::{Caller, Request, Stage, broker, eventually, person};

/// Hashes that may be computed at a time take 19 MiB each; the rest is for a thousand commands in hand.
const HASH_KIB: u64 = 19 * 1024;
const IN_HAND_KIB: u64 = 128 * 1024;
const HASHES: &str = "roster_password_hashes_total";
/// What a query may take longer than it does when nothing else is to be done: the machine is at its limit.
const LONGER: Duration = Duration::from_millis(500);

async fn timed_query(caller: &Caller, id: Uuid) -> Duration {
    let begun = Instant::now();
    caller.ask("user.get.v1", json!({ "id": id })).await.data();
    begun.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_41_a_thousand_hashes_at_once_leave_queries_quick_and_memory_bounded() {
    let (stage, mut worker) = Stage::with_worker().await;
    let (caller, asker) = (stage.service().await, stage.service().await);
    let ids = caller.create_many("user", 20).await;
    let mut idle = Vec::new();
    for n in 0..100 {
        idle.push(timed_query(&asker, ids[n % ids.len()]).await);
    }
    let (idle, before) = (median(&mut idle), worker.resident().unwrap());
    let request = |n: usize| match n % 2 {
        0 => caller.request("user.create.v1", person(&format!("crowd{n}"))),
        _ => {
            let body = json!({ "id": ids[n % ids.len()], "new_password": format!("another secret {n}") });
            caller.request("user.change_password.v1", body)
        }
    };
    let requests: Vec<Request> = (0..1000).map(request).collect();
    let begun = Instant::now();
    for request in &requests {
        drop(caller.publish(request).await.unwrap());
    }
    let (mut busy, mut most) = (Vec::new(), 0);
    while worker.metric(HASHES, &[]).await < 1_020.0 {
        busy.push(timed_query(&asker, ids[busy.len() % ids.len()]).await);
        most = most.max(worker.resident().unwrap());
        assert!(begun.elapsed() < Duration::from_secs(300), "it does not get done");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed();
    let (count, slowest) = (busy.len(), busy.iter().max().copied().unwrap());
    let busy = median(&mut busy);
    eprintln!(
        "a thousand hashes in {took:.1?}; user.get: {idle:.1?} idle, {busy:.1?} meanwhile ({count} queries, the slowest \
         {slowest:.1?}); memory from {} to {} MiB",
        before / 1024,
        most / 1024
    );
    for request in &requests {
        caller.reply(request).await.data();
    }
    assert!(count > 20, "only {count} queries were answered meanwhile");
    assert!(busy < idle + LONGER, "{busy:?} instead of {idle:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    let bound = before + threads * HASH_KIB + IN_HAND_KIB;
    assert!(most < bound, "{most} KiB instead of {bound} at most");
}

/// They come again on the next session, so what is left of them in the worker is not to be computed in front of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_of_a_session_that_is_over_are_not_hashed_before_they_come_again() {
    const CREATIONS: u16 = 100;
    let stage = Stage::new().await;
    let proxy = Proxy::start(&broker::address(&stage.amqp_url)).await;
    let mut worker = stage.worker().amqp_via(proxy.address).start().await;
    let caller = stage.service().await;
    let create = |n: u16| caller.request("user.create.v1", person(&format!("crowd{n}")));
    let creates: Vec<Request> = (0..CREATIONS).map(create).collect();
    for create in &creates {
        drop(caller.publish(create).await.unwrap());
    }
    eventually("the worker has begun and has all of them", async || {
        let ready = broker::depth(&caller.connection, &stage.object("commands")).await.unwrap().0;
        match (ready, worker.metric(HASHES, &[]).await) {
            (0, 1.0..) => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
    proxy.reset();
    let hashed = worker.metric(HASHES, &[]).await;
    for create in &creates {
        caller.reply(create).await.data();
    }
    let threads = std::thread::available_parallelism().unwrap().get() as u16;
    let (all, most) = (worker.metric(HASHES, &[]).await, hashed + f64::from(CREATIONS + 4 * threads));
    assert!(all <= most, "{all} hashes, {hashed} of them before the break, for {CREATIONS} creations");
}
