//! Bad networks between a worker and its servers: slow, sliced, cut, half-open.

use std::time::Duration;

use rstest::rstest;
use serde_json::json;

use crate::support::proxy::Proxy;
use crate::support::random::Mix;
use crate::support::run::{MIX, Run};
use crate::support::{Stage, Worker, broker, eventually};

const SMALL: Mix = Mix { users: 6, commands: 150, wide: false };

/// A worker that reaches both servers through proxies only, and has a short heartbeat.
async fn behind_proxies(stage: &Stage) -> (Worker, Proxy, Proxy) {
    let database = Proxy::start(&broker::address(&stage.database_url)).await;
    let rabbit = Proxy::start(&broker::address(&broker::url())).await;
    let url = broker::through(&broker::url(), rabbit.address);
    let url = match url.contains('?') {
        true => format!("{url}&heartbeat=2"),
        false => format!("{url}?heartbeat=2"),
    };
    let builder = stage.worker().env("AMQP_URL", url).database_via(database.address);
    (builder.start().await, database, rabbit)
}

#[tokio::test]
async fn slow_and_sliced_traffic_makes_it_slower_and_nothing_else() {
    let stage = Stage::new().await;
    let (mut worker, database, rabbit) = behind_proxies(&stage).await;
    for proxy in [&database, &rabbit] {
        proxy.latency(Duration::from_millis(50));
        proxy.slice(50);
    }
    let run = Run::start(&stage, SMALL).await;
    run.reach(1.0).await;
    database.heal();
    rabbit.heal();
    run.finish(&stage, &mut worker).await;
}

#[tokio::test]
async fn connections_reset_or_cut_under_load_lose_and_repeat_nothing() {
    let stage = Stage::new().await;
    let (mut worker, database, rabbit) = behind_proxies(&stage).await;
    let run = Run::start(&stage, MIX).await;
    for (share, proxy) in [(0.1, &database), (0.3, &rabbit), (0.5, &database), (0.6, &rabbit)] {
        run.reach(share).await;
        proxy.reset();
    }
    run.reach(0.7).await;
    database.cut_after(1000);
    run.reach(0.85).await;
    rabbit.cut_after(1000);
    run.finish(&stage, &mut worker).await;
}

#[rstest]
#[case::to_the_broker(false)]
#[case::to_postgres(true)]
#[tokio::test]
async fn half_open_connections_are_noticed_and_replaced(#[case] to_postgres: bool) {
    let stage = Stage::new().await;
    let (mut worker, database, rabbit) = behind_proxies(&stage).await;
    let run = Run::start(&stage, SMALL).await;
    run.reach(0.3).await;
    match to_postgres {
        true => database.strand(),
        false => rabbit.strand(),
    }
    run.finish(&stage, &mut worker).await;
}

#[tokio::test]
async fn queries_are_answered_again_after_their_connections_were_half_open() {
    let stage = Stage::new().await;
    let (worker, database, _rabbit) = behind_proxies(&stage).await;
    let caller = stage.service().await;
    caller.create_many("user", 3).await;
    let many = || (0..12).map(|_| caller.request("user.list.v1", json!({}))).collect::<Vec<_>>();
    // All connections of the queries are in use when they die.
    caller.ask_all(&many()).await;
    database.latency(Duration::from_millis(300));
    let lost = many();
    for query in &lost {
        caller.send(query).await;
    }
    tokio::time::sleep(Duration::from_millis(450)).await;
    database.strand();
    database.heal();
    eventually("queries are answered again", async || {
        let queries = many();
        for query in &queries {
            caller.send(query).await;
        }
        for query in &queries {
            let reply = caller.reply_within(&query.correlation_key(), Duration::from_secs(30)).await;
            let reply = reply.ok_or("no reply in 30 s")?;
            if !reply.is_success() {
                return Err(reply.body.to_string());
            }
        }
        Ok(())
    })
    .await;
    drop(worker);
}
