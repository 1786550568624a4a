//! What the broker and Postgres may do to a worker while both are up.

use std::time::Duration;

use lapin::options::{
    BasicGetOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use rstest::rstest;
use serde_json::json;

use crate::support::run::{MIX, Run};
use crate::support::{Stage, eventually, tables};

#[rstest]
#[case("commands")]
#[case("queries")]
#[case("dead")]
#[tokio::test]
async fn a_queue_that_stands_with_other_arguments_is_a_clear_error_at_start(#[case] queue: &str) {
    let stage = Stage::new().await;
    let caller = stage.anonymous().await;
    let queue = stage.object(queue);
    let declare = caller.channel.queue_declare(
        queue.as_str().into(),
        QueueDeclareOptions::durable(),
        FieldTable::default(),
    );
    declare.await.unwrap();
    let mut worker = stage.worker().spawn();
    let status = worker.wait_exit(Duration::from_secs(60)).await;
    assert!(!status.success());
    assert!(worker.log().contains(&queue), "the log names the queue:\n{}", worker.log());
}

#[tokio::test]
async fn topology_that_is_only_checked_must_stand() {
    let stage = Stage::new().await;
    let mut worker = stage.worker().env("ROSTER_TOPOLOGY", "check").spawn();
    let status = worker.wait_exit(Duration::from_secs(60)).await;
    assert!(!status.success());
    assert!(worker.log().contains(&stage.namespace), "{}", worker.log());
    let declared = stage.cli(&["topology", "declare"]);
    assert!(declared.status.success(), "{declared:?}");
    let _worker = stage.worker().env("ROSTER_TOPOLOGY", "check").start().await;
    stage.service().await.create("ada").await;
}

#[tokio::test]
async fn a_deleted_command_queue_does_not_leave_a_worker_that_looks_healthy() {
    let (stage, mut worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    caller.create("ada").await;
    let delete = QueueDeleteOptions::default();
    caller.channel.queue_delete(stage.object("commands").into(), delete).await.unwrap();
    eventually("it is ready again, with a queue", async || {
        let connection = &caller.connection;
        let queue = crate::support::broker::depth(connection, &stage.object("commands")).await;
        match (worker.get("/readyz").await?, queue) {
            ((200, _), Some((_, consumers))) if consumers > 0 => Ok(()),
            state => Err(format!("{state:?}")),
        }
    })
    .await;
    caller.create("bob").await;
}

#[tokio::test]
async fn terminated_database_sessions_lose_and_repeat_nothing() {
    let (stage, mut worker) = Stage::with_worker().await;
    let run = Run::start(&stage, MIX).await;
    for share in [0.1, 0.2, 0.4, 0.6, 0.8] {
        run.reach(share).await;
        // The last ones may be gone, and no new ones there yet.
        eventually("there are sessions to end", async || {
            match tables::terminate_backends(&stage.pool).await {
                0 => Err("there are none".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }
    run.finish(&stage, &mut worker).await;
}

#[tokio::test]
async fn nothing_is_taken_back_from_beneath_a_newer_version() {
    let stage = Stage::new().await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9000, 'of tomorrow', true, '', 0)";
    sqlx::query(newer).execute(&stage.pool).await.unwrap();
    let down = stage.cli(&["migrate", "down", "1"]);
    assert!(!down.status.success() && String::from_utf8_lossy(&down.stderr).contains("9000"), "{down:?}");
    sqlx::query("delete from _sqlx_migrations where version = 9000").execute(&stage.pool).await.unwrap();
    let down = stage.cli(&["migrate", "down", "99"]);
    assert!(down.status.success() && !String::from_utf8_lossy(&down.stdout).contains("99"), "{down:?}");
}

#[tokio::test]
async fn two_workers_that_start_at_once_migrate_an_empty_database_once() {
    let stage = Stage::unmigrated().await;
    let mut workers = [stage.worker().spawn(), stage.worker().spawn()];
    for worker in &mut workers {
        worker.wait_ready().await;
    }
    stage.service().await.create("ada").await;
}

#[tokio::test]
async fn a_nacked_event_is_kept_in_order_and_holds_back_only_its_own_user() {
    let (stage, _worker) = Stage::with_worker().await;
    let (caller, subscriber) = (stage.service().await, stage.subscriber().await);
    let (ada, bob) = (caller.create("ada").await, caller.create("bob").await);
    subscriber.wait_for(2).await;
    let full = full_queue(&stage, &caller.channel, "user.renamed.v1").await;
    // The first event fills the queue; the second is nacked, and the third must wait for it.
    let fill = json!({ "id": bob, "name": "Filler" });
    caller.ask("user.update.v1", fill).await.data();
    subscriber.wait_for_sequence(&bob.to_string(), 2).await;
    let update = json!({ "id": ada, "name": "Nacked", "email": "held@example.com" });
    caller.ask("user.update.v1", update).await.data();
    for n in 0..10 {
        let body = json!({ "id": bob, "email": format!("bob{n}@example.com") });
        caller.ask("user.update.v1", body).await.data();
    }
    subscriber.wait_for_sequence(&bob.to_string(), 12).await;
    let of_ada = || {
        let mut seen = subscriber.seen();
        seen.retain(|event| event.subject == ada.to_string());
        seen.into_iter().map(|event| event.sequence).collect::<Vec<i64>>()
    };
    assert!(!of_ada().contains(&3), "sequence 3 waits for 2: {:?}", of_ada());
    assert!(tables::outbox(&stage.pool).await > 0, "what is not published is kept");
    caller.channel.queue_purge(full.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    subscriber.wait_for_sequence(&ada.to_string(), 3).await;
    let mut first_seen = Vec::new();
    for sequence in of_ada() {
        if !first_seen.contains(&sequence) {
            first_seen.push(sequence);
        }
    }
    assert_eq!(first_seen, [1, 2, 3]);
    let options = BasicGetOptions { no_ack: true };
    assert!(caller.channel.basic_get(full.into(), options).await.unwrap().is_some());
    eventually("the outbox is empty", async || match tables::outbox(&stage.pool).await {
        0 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
}

/// A queue that takes one event of a kind and nacks the next.
async fn full_queue(stage: &Stage, channel: &lapin::Channel, kind: &str) -> String {
    let queue = stage.object("full");
    stage.remember_queue(&queue);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    let reject = AMQPValue::LongString("reject-publish".into());
    arguments.insert("x-overflow".into(), reject);
    let durable = QueueDeclareOptions::durable();
    channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
    let bind = channel.queue_bind(
        queue.as_str().into(),
        stage.object("events").into(),
        kind.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await.unwrap();
    queue
}
