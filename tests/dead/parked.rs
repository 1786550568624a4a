//! What the broker parked in the dead letter queue is collected and answered.

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use super::{dead, list, roster};
use crate::support::{Caller, PATIENCE, Request, Stage, broker, eventually, person, tables};

/// `request` as the broker's own dead-lettering would bring it to the dead letter exchange.
async fn park(stage: &Stage, caller: &Caller, request: &Request, reason: &str) {
    let mut death = FieldTable::default();
    death.insert("reason".into(), AMQPValue::LongString(reason.into()));
    death.insert("queue".into(), AMQPValue::LongString(stage.object("commands").into()));
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    let deaths = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into());
    let properties: BasicProperties = request.clone().header("x-death", deaths).properties();
    let exchange = stage.object("dead");
    let options = BasicPublishOptions::default();
    let publish =
        caller.channel.basic_publish(exchange.into(), "".into(), options, &request.body, properties);
    publish.await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_parked_is_answered_and_kept_and_can_be_replayed() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let victim = stage.object("victim");
    let declare = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
    caller.channel.queue_declare(victim.as_str().into(), declare, FieldTable::default()).await.unwrap();
    stage.remember_queue(&victim);
    let ada = caller.create("ada").await;
    let killer = caller.request("user.update.v1", json!({ "id": ada, "name": "Countess" }));
    let late = caller.request("user.create.v1", person("bob"));
    let hostile = caller.request("user.create.v1", person("cleo")).reply_to(&victim);
    park(&stage, &caller, &killer, "delivery_limit").await;
    park(&stage, &caller, &late, "expired").await;
    park(&stage, &caller, &hostile, "delivery_limit").await;
    assert_eq!(caller.reply(&killer).await.code(), "INTERNAL_ERROR");
    assert_eq!(caller.reply(&late).await.code(), "EXPIRED");
    dead(&stage, 3).await;
    assert_eq!(broker::depth(&caller.connection, &victim).await.unwrap().0, 0, "nothing goes there");
    assert_eq!(list(&stage, &["--reason", "expired", "--type", "user.create.v1"]).len(), 1);
    let named = list(&stage, &["--user", &ada.to_string()]);
    assert_eq!(named.len(), 1, "though it was never read as a command");
    assert_eq!(named[0]["reason"], "delivery_limit");
    roster(&stage, &["replay", "--all", "--yes"]);
    assert_eq!(caller.reply(&killer).await.version(), 2);
    assert_eq!(caller.reply(&late).await.data()["name"], "Bob");
    super::nothing_kept(&stage).await;
    assert_eq!(tables::users(&stage.pool).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_parked_though_it_was_answered_gets_the_stored_answer() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let create = caller.request("user.create.v1", person("ada"));
    let first = caller.ask_with(&create).await;
    park(&stage, &caller, &create, "delivery_limit").await;
    let again = caller.reply(&create).await;
    assert_eq!((&again.body, again.replayed), (&first.body, Some(true)));
    assert!(tables::failed(&stage.pool).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_expiration_ran_out_in_the_queue_is_answered() {
    let (stage, worker) = Stage::with_worker().await;
    drop(worker);
    let caller = stage.service().await;
    let mut create = caller.request("user.create.v1", person("ada"));
    create.expiration = Some("50".to_owned());
    caller.send(&create).await;
    eventually("the broker parks it", async || {
        match broker::depth(&caller.connection, &stage.object("dead")).await {
            Some((1, _)) => Ok(()),
            depth => Err(format!("{depth:?}")),
        }
    })
    .await;
    let _worker = stage.worker().start().await;
    assert_eq!(caller.reply(&create).await.refusal(), "EXPIRED deadline_passed");
    assert_eq!(dead(&stage, 1).await[0].reason.as_deref(), Some("expired"));
}

/// Both come by one session, on two channels that each count their deliveries from 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_parked_is_acknowledged_beside_commands_of_the_same_batch() {
    let stage = Stage::new().await;
    let mut worker = stage.worker().env("ROSTER_LANES", 1).start().await;
    let caller = stage.service().await;
    let ada = caller.create("ada").await;
    // The lane stands still until all of them wait in it.
    let mut held = stage.pool.begin().await.unwrap();
    sqlx::query("lock table users in access exclusive mode").execute(&mut *held).await.unwrap();
    let renames = (0..20).map(|n| json!({ "id": ada, "name": format!("Ada {n}") }));
    let renames: Vec<Request> = renames.map(|body| caller.request("user.update.v1", body)).collect();
    caller.send(&renames[0]).await;
    eventually("the first is begun", async || match tables::waiting_for_users(&stage.pool).await {
        0 => Err("it is not".to_owned()),
        _ => Ok(()),
    })
    .await;
    let late: Vec<Request> =
        (0..10).map(|n| caller.request("user.create.v1", person(&format!("u{n}")))).collect();
    for (n, rename) in renames.iter().enumerate().skip(1) {
        caller.send(rename).await;
        if let Some(late) = late.get(n) {
            park(&stage, &caller, late, "expired").await;
        }
    }
    park(&stage, &caller, &late[0], "expired").await;
    let waiting = async || {
        let (commands, dead) = (stage.object("commands"), stage.object("dead"));
        let commands = broker::depth(&caller.connection, &commands).await.unwrap().0;
        (commands, broker::depth(&caller.connection, &dead).await.unwrap().0)
    };
    eventually("all are delivered", async || match waiting().await {
        (0, 0) => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    held.rollback().await.unwrap();
    for rename in &renames {
        assert!(caller.reply(rename).await.is_success());
    }
    for late in &late {
        assert_eq!(caller.reply(late).await.code(), "EXPIRED");
    }
    // What is not acknowledged when it has gone is ready again.
    worker.terminate();
    assert_eq!(worker.wait_exit(PATIENCE).await.code(), Some(0));
    assert_eq!(waiting().await, (0, 0));
}
