//! Everything at once, from one seed: workers killed at random and at every failpoint, both servers
//! restarted, a bad network, duplicates and overtaking, under load. It heals everything, waits until
//! all is drained, and only then asks the checker.

mod faults;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::prelude::*;
use sqlx::raw_sql;

use crate::support::load::Load;
use crate::support::private::{self, Private};
use crate::support::proxy::Proxy;
use crate::support::random::{Mix, plan, seed};
use crate::support::run::report;
use crate::support::{Stage, Worker, broker};
use faults::{Record, Scene};

/// What a run is made of.
struct Plot {
    seed: u64,
    time: Duration,
    kills: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_mix_of_all_faults_loses_and_repeats_nothing() {
    act(Plot { seed: seed(), time: Duration::from_secs(20), kills: 6 }).await;
}

/// `ROSTER_CHAOS_SECONDS`, `ROSTER_CHAOS_SEED` and `ROSTER_CHAOS_KILLS` say how long, which and how
/// many; see `scripts/chaos`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as ROSTER_CHAOS_SECONDS says"]
async fn the_long_mix() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("ROSTER_CHAOS_SECONDS").unwrap_or(60);
    let kills = number("ROSTER_CHAOS_KILLS").unwrap_or(seconds / 4);
    act(Plot {
        seed: number("ROSTER_CHAOS_SEED").unwrap_or_else(seed),
        time: Duration::from_secs(seconds),
        kills: u32::try_from(kills).unwrap(),
    })
    .await;
}

/// A worker that reaches the servers through proxies, and tries failed commands often and soon.
fn worker(stage: &Stage, database: &Proxy, rabbit: &Proxy) -> crate::support::worker::Builder {
    let amqp_url = format!("{}?heartbeat=4", broker::through(&stage.amqp_url, rabbit.address));
    let delays = ["300ms"; 20].join(",");
    stage
        .worker()
        .env("AMQP_URL", amqp_url)
        .database_via(database.address)
        .env("ROSTER_RETRY_DELAYS", delays)
        .env("ROSTER_DATABASE_CONNECTIONS", 12)
}

/// One change in a hundred fails now and then, so that commands are kept and tried again.
async fn sicken(stage: &Stage) {
    let statements = "create function sick() returns trigger language plpgsql as
            $$ begin raise exception 'sick' using errcode = 'XX000'; end $$;
         create trigger sick before update on users for each row
            when (new.name like '%77' and random() < 0.3) execute function sick();";
    raw_sql(statements).execute(&stage.pool).await.unwrap();
}

async fn act(plot: Plot) {
    let (servers, _turn) = private::shared().await;
    act_on(servers, plot).await;
}

async fn act_on(servers: &'static Private, plot: Plot) {
    let Plot { seed, time, kills } = plot;
    eprintln!("chaos: seed {seed}, {} s, {kills} kills", time.as_secs());
    let stage = Arc::new(Stage::on_servers(servers.amqp_url.clone(), servers.server_url.clone()).await);
    sicken(&stage).await;
    let database = Proxy::start(&broker::address(&stage.database_url)).await;
    let rabbit = Proxy::start(&broker::address(&stage.amqp_url)).await;
    let mut workers: Vec<Worker> = Vec::new();
    for _ in 0..2 {
        workers.push(worker(&stage, &database, &rabbit).start().await);
    }
    // As many as are judged in reasonable memory.
    let seconds = u32::try_from(time.as_secs()).unwrap().max(1);
    let rate = (110_000 / seconds).clamp(20, 150);
    let mix = Mix { users: 30, commands: (rate * seconds) as usize, wide: false };
    let mut plan = plan(seed, mix, Some(broker::user_in(&stage.amqp_url)));
    // Some users are made in the midst of it.
    let mut rng = StdRng::seed_from_u64(seed);
    for late in plan.creations.split_off(20) {
        let place = rng.random_range(0..plan.steps.len());
        plan.steps.insert(place, late);
    }
    let subscriber = stage.subscriber().await;
    let mut load = Load::new(&stage, seed);
    load.limit = time + Duration::from_secs(300);
    load.drain = Duration::from_secs(120);
    let load = Arc::new(load);
    load.drive(&plan.creations, 8).await;
    let stop = Arc::new(AtomicBool::new(false));
    let driving = {
        let (load, steps, stop) = (Arc::clone(&load), plan.steps.clone(), Arc::clone(&stop));
        tokio::spawn(async move { load.drive_until(&steps, 64, rate, &stop).await })
    };

    let record = Arc::new(Record::default());
    let scene = Scene {
        servers,
        stage: Arc::clone(&stage),
        load: Arc::clone(&load),
        record: Arc::clone(&record),
        end: Instant::now() + time,
        seed,
    };
    let (mut workers, (database, rabbit), ()) = tokio::join!(
        scene.kill_workers(workers, kills),
        scene.trouble_the_network(database, rabbit),
        scene.restart_servers(),
    );

    // Healed: what follows must go well.
    stop.store(true, Ordering::Relaxed);
    database.heal();
    rabbit.heal();
    servers.both_up().await;
    raw_sql("drop trigger sick on users").execute(&stage.pool).await.unwrap();
    let healed = Instant::now();
    for worker in &mut workers {
        worker.wait_ready().await;
    }
    record.recovered("ready after healing", healed.elapsed());
    driving.await.expect("every command was seen through");
    record.recovered("every command done after healing", healed.elapsed());
    let mut last = workers.remove(0);
    for mut other in workers {
        other.terminate();
        let status = other.wait_exit(Duration::from_secs(60)).await;
        assert_eq!(status.code(), Some(0));
    }
    let load = loop {
        // The scene's clone has gone with it; the driving task's is on its way.
        if Arc::strong_count(&load) == 2 {
            break scene.give_back(load);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let commands = load.done.load(Ordering::Relaxed);
    let report = report(load, &plan, &subscriber, &stage, &mut last).await;
    record.recovered("drained and judged after healing", healed.elapsed());
    eprintln!("{record}{commands} commands, seed {seed}");
    report.assert_holds(&["I1", "I2", "I3", "I4", "I5", "I6", "I8", "I9"]);
}
