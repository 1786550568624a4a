//! Bad networks between a worker and its servers: slow, sliced, cut, half-open.

use std::time::Duration;

use rstest::rstest;

use crate::support::proxy::Proxy;
use crate::support::random::Mix;
use crate::support::run::{MIX, Run};
use crate::support::{Stage, Worker, broker};

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
