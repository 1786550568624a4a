//! What the broker takes away by itself: a delivery that is held too long, and room in the dead letter queue. On a
//! server of the suite's own, one test at a time.

use std::time::Duration;

use lapin::options::{BasicGetOptions, BasicPublishOptions};
use rstest::rstest;
use serde_json::json;
use sqlx::Executor;

use crate::support::private::{self, Private};
use crate::support::proxy::Proxy;
use crate::support::{Caller, Request, Stage, Worker, broker, eventually, person, tables};

async fn stage_on(servers: &Private) -> Stage {
    Stage::on_servers(servers.amqp_url.clone(), servers.server_url.clone()).await
}

async fn reconnects(worker: &mut Worker) -> f64 {
    worker.metric("roster_broker_reconnects_total", &[]).await
}

#[rstest]
#[case::row_17_behind_a_lock(false)]
#[case::row_17_while_postgres_is_away(true)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_held_too_long_for_the_broker_has_one_effect(#[case] away: bool) {
    let (servers, _turn) = private::shared().await;
    // Half an hour by default, looked at once a minute; both are read when a channel opens.
    servers
        .eval("application:set_env(rabbit, consumer_timeout, 3000), application:set_env(rabbit, channel_tick_interval, 500)")
        .await;
    let stage = stage_on(servers).await;
    let proxy = Proxy::start(&broker::address(&stage.database_url)).await;
    let mut worker = stage.worker().database_via(proxy.address).start().await;
    let caller = stage.service().await;
    let (ada, bob) = (caller.create("ada").await, caller.create("bob").await);
    let mut holder = stage.pool.begin().await.unwrap();
    let lock = sqlx::query("select 1 from users where id = $1 for update").bind(ada);
    holder.execute(lock).await.unwrap();
    let before = reconnects(&mut worker).await;
    let rename = caller.request("user.update.v1", json!({ "id": ada, "name": "Countess" }));
    caller.send(&rename).await;
    if away {
        // The consumer is cancelled, its channel stays open, and the delivery in hand.
        proxy.black_hole();
        eventually("consuming pauses", async || match worker.metric("roster_consuming", &[]).await {
            0.0 => Ok(()),
            consuming => Err(format!("{consuming}")),
        })
        .await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        proxy.heal();
    }
    eventually("the broker closes the channel and the worker comes back", async || {
        match (reconnects(&mut worker).await - before, worker.get("/readyz").await?) {
            (times, (200, _)) if times > 0.0 => Ok(()),
            state => Err(format!("{state:?}")),
        }
    })
    .await;
    // What comes back again and again may be what kills the process: it runs alone, and others wait for it.
    holder.rollback().await.unwrap();
    let other = caller.ask("user.update.v1", json!({ "id": bob, "name": "Baron" })).await;
    assert_eq!(other.version(), 2);
    tables::hurry(&stage.pool).await;
    assert_eq!(caller.reply(&rename).await.version(), 2);
    let again = caller.ask_with(&rename.again()).await;
    assert_eq!((again.version(), again.replayed), (2, Some(true)));
    crate::support::load::settled(&stage).await;
    assert_eq!(tables::events(&stage.pool).await.len(), 4, "two created, each renamed once");
}

/// Takes the head of a queue and leaves without a word, so often that the broker parks it.
async fn wear_out(stage: &Stage, queue: &str) {
    let connection = broker::connect_to(&stage.amqp_url, "roster-tests deserter").await.unwrap();
    eventually("the broker has parked it", async || {
        let channel = connection.create_channel().await.unwrap();
        let got = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
        let _ = channel.close(200, "gone".into()).await;
        if got.is_none() { Ok(()) } else { Err("it is still there".to_owned()) }
    })
    .await;
}

/// Commands for the dead letter queue, until it takes no more; those that it took.
async fn fill(stage: &Stage, caller: &Caller) -> Vec<Request> {
    let mut taken = Vec::new();
    for n in 0..200 {
        let request = caller.request("user.create.v1", person(&format!("parked{n}")));
        let confirm = caller.channel.basic_publish(
            stage.object("dead").into(),
            "".into(),
            BasicPublishOptions::default(),
            &request.body,
            request.properties(),
        );
        match confirm.await.unwrap().await.unwrap().is_ack() {
            true => taken.push(request),
            false => return taken,
        }
    }
    panic!("the dead letter queue has no limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_43_a_full_dead_letter_queue_loses_nothing_and_shows() {
    let (servers, _turn) = private::shared().await;
    // How soon the broker tries again to park what a full queue refused: three minutes by default.
    servers.eval("application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 2000)").await;
    let stage = stage_on(servers).await;
    let (dead, commands) = (stage.object("dead"), stage.object("commands"));
    let pattern = format!("^{}$", dead.replace('.', "\\."));
    let policy = ["-q", "set_policy", "small", &pattern, r#"{"max-length": 40}"#, "--apply-to", "queues"];
    servers.rabbitmqctl(&policy).await;
    let proxy = Proxy::start(&broker::address(&stage.database_url)).await;
    let mut worker = stage.worker().database_via(proxy.address).start().await;
    let caller = stage.service().await;
    caller.create("ada").await;
    // With Postgres away nobody can keep what is parked.
    proxy.black_hole();
    eventually("consuming pauses", async || match worker.metric("roster_consuming", &[]).await {
        0.0 => Ok(()),
        consuming => Err(format!("{consuming}")),
    })
    .await;
    let parked = fill(&stage, &caller).await;
    let victim = caller.request("user.create.v1", person("victim"));
    caller.send(&victim).await;
    wear_out(&stage, &commands).await;
    eventually("it shows", async || {
        let waiting = worker.metric("roster_parked_messages", &[]).await;
        let said = worker.log().contains("dead letter queue is not emptied");
        if waiting > 0.0 && said { Ok(()) } else { Err(format!("{waiting} waiting, logged: {said}")) }
    })
    .await;
    proxy.heal();
    let all: Vec<&Request> = parked.iter().chain([&victim]).collect();
    eventually("all are dead letters", async || {
        let letters = tables::failed(&stage.pool).await;
        let kept = |request: &&&Request| letters.iter().any(|row| row.message_id == request.message_id);
        match all.iter().filter(kept).count() {
            count if count == all.len() => Ok(()),
            count => Err(format!("{count} of {}", all.len())),
        }
    })
    .await;
    assert_eq!(caller.reply(&victim).await.code(), "INTERNAL_ERROR");
    eventually("it shows no more", async || match worker.metric("roster_parked_messages", &[]).await {
        0.0 => Ok(()),
        waiting => Err(format!("{waiting}")),
    })
    .await;
}
