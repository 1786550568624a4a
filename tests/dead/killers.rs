//! Handlers that panic, messages that kill the process, and workers killed in the middle of keeping a command.

use std::time::Duration;

use serde_json::json;

use super::{allow, dead, forbid, kept, list, nothing_kept, roster};
use crate::support::{PATIENCE, Stage, person, tables};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_makes_a_dead_letter_of_its_command_and_spares_the_neighbours() {
    let stage = Stage::new().await;
    let caller = stage.service().await;
    let victim = caller.request("user.create.v1", person("ada"));
    let id = victim.message_id.clone().unwrap();
    let mut worker = stage.worker().env("ROSTER_PANIC_ON", &id).start().await;
    let mut requests: Vec<_> =
        (0..40).map(|n| caller.request("user.create.v1", person(&format!("user{n}")))).collect();
    requests.insert(20, victim);
    let replies = caller.ask_all(&requests).await;
    for (n, reply) in replies.iter().enumerate() {
        match n {
            20 => assert_eq!((reply.code(), reply.replayed), ("INTERNAL_ERROR", Some(false))),
            _ => assert!(reply.is_success(), "{}", reply.body),
        }
    }
    assert!(worker.is_running());
    let letter = &dead(&stage, 1).await[0];
    assert_eq!((letter.reason.as_deref(), letter.attempts), (Some("panicked"), 1));
    drop(worker);
    let _mended = stage.worker().start().await;
    roster(&stage, &["replay", &id, "--yes"]);
    assert_eq!(caller.reply(&requests[20]).await.data()["name"], "Ada");
    nothing_kept(&stage).await;
    assert_eq!(tables::users(&stage.pool).await.len(), 41);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_kills_the_process_is_parked_without_its_neighbours() {
    let (stage, first) = Stage::with_worker().await;
    let caller = stage.service().await;
    let bob = caller.create("bob").await;
    drop(first);
    let killer = caller.request("user.create.v1", person("ada"));
    let id = killer.message_id.clone().unwrap();
    let rename = |n| caller.request("user.update.v1", json!({ "id": bob, "name": format!("Bob {n}") }));
    let mut requests: Vec<_> = (0..200).map(rename).collect();
    requests.insert(100, killer);
    for request in &requests {
        drop(caller.publish(request).await.unwrap());
    }
    let builder = || stage.worker().env("ROSTER_ABORT_ON", &id);
    let mut deaths = 0;
    let mut worker = builder().spawn();
    let survivor = loop {
        if let Some(reply) = caller.reply_within(&requests[100].correlation_key(), Duration::ZERO).await {
            break reply;
        }
        if !worker.is_running() {
            deaths += 1;
            assert!(deaths <= 10, "it was not parked");
            worker = builder().spawn();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(survivor.code(), "INTERNAL_ERROR");
    assert_eq!(deaths, 10, "as often as the limit says");
    for (n, request) in requests.iter().enumerate().filter(|(n, _)| *n != 100) {
        let reply = caller.reply(request).await;
        assert!(reply.is_success(), "neighbour {n}: {}", reply.body);
    }
    let letter = &dead(&stage, 1).await[0];
    assert_eq!(
        (letter.reason.as_deref(), letter.message_id.as_deref()),
        (Some("delivery_limit"), Some(&*id))
    );
    assert_eq!(tables::events(&stage.pool).await.len(), 201, "each neighbour was handled once");
    assert!(worker.is_running());

    // Replayed while it still kills: given up again, and alone.
    drop(worker);
    roster(&stage, &["replay", &id, "--yes"]);
    let mut worker = builder().spawn();
    let mut deaths = 0;
    let again = loop {
        if let Some(reply) = caller.reply_within(&requests[100].correlation_key(), Duration::ZERO).await {
            break reply;
        }
        if !worker.is_running() {
            deaths += 1;
            assert!(deaths <= 5, "it was not given up");
            // A minute passes.
            super::run(&stage, "update failed_commands set claimed_until = now() - interval '1 second'")
                .await;
            worker = builder().spawn();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((again.code(), deaths), ("INTERNAL_ERROR", 5));
    assert_eq!(list(&stage, &["--reason", "delivery_limit", "--state", "dead"]).len(), 1);
    worker.wait_ready().await;
    caller.ask("user.update.v1", json!({ "id": bob, "name": "Robert" })).await.data();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_keeping_a_command_and_its_ack_it_is_tried_as_often_as_promised() {
    let stage = Stage::new().await;
    forbid(&stage, "Ada").await;
    let caller = stage.service().await;
    let builder = || stage.worker().env("ROSTER_RETRY_DELAYS", "1h,1h");
    let mut worker = builder().env("ROSTER_FAILPOINT", "after_keeping:1").start().await;
    let create = caller.request("user.create.v1", person("ada"));
    caller.send(&create).await;
    worker.wait_exit(PATIENCE).await;
    drop(worker);
    let _worker = builder().start().await;
    super::waiters(&stage, 1).await;
    let row = &kept(&stage, 1, |row| row.state == "waiting").await[0];
    assert_eq!(row.attempts, 1, "the redelivery was no try");
    allow(&stage).await;
    tables::hurry(&stage.pool).await;
    assert_eq!(caller.reply(&create).await.replayed, Some(false));
    nothing_kept(&stage).await;
    assert_eq!(tables::events(&stage.pool).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_it_tells_of_a_dead_letter_it_tells_later() {
    let stage = Stage::new().await;
    forbid(&stage, "Ada").await;
    let caller = stage.service().await;
    let builder = || stage.worker().env("ROSTER_RETRY_DELAYS", "1ms");
    let mut worker = builder().env("ROSTER_FAILPOINT", "before_reply:2").start().await;
    let create = caller.request("user.create.v1", person("ada"));
    caller.send(&create).await;
    // The first time it comes by, there is nothing to say: the command waits to be tried again.
    worker.wait_exit(PATIENCE).await;
    dead(&stage, 1).await;
    assert_eq!(caller.reply_within(&create.correlation_key(), Duration::from_millis(500)).await, None);
    super::run(&stage, "update failed_commands set due_at = now() where due_at is not null").await;
    let _worker = builder().start().await;
    assert_eq!(caller.reply(&create).await.code(), "INTERNAL_ERROR");
    let letter = &dead(&stage, 1).await[0];
    assert_eq!((letter.attempts, letter.reason.as_deref()), (2, Some("failed")));
    caller.create("bob").await;
    assert!(caller.drain().is_empty(), "and once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_a_kept_command_runs_again_it_is_due_again_and_has_one_effect() {
    for place in ["in_transaction", "before_commit", "after_commit", "before_reply"] {
        let stage = Stage::new().await;
        forbid(&stage, "Ada").await;
        let caller = stage.service().await;
        let worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1h").start().await;
        let create = caller.request("user.create.v1", person("ada"));
        caller.send(&create).await;
        kept(&stage, 1, |_| true).await;
        drop(worker);
        allow(&stage).await;
        tables::hurry(&stage.pool).await;
        let mut worker = stage.worker().env("ROSTER_FAILPOINT", format!("{place}:1")).spawn();
        worker.wait_exit(PATIENCE).await;
        kept(&stage, 1, |row| row.attempts == 1).await;
        super::run(&stage, "update failed_commands set claimed_until = now() - interval '1 second'").await;
        let _worker = stage.worker().start().await;
        caller.reply(&create).await.data();
        nothing_kept(&stage).await;
        assert_eq!(tables::events(&stage.pool).await.len(), 1, "{place}");
    }
}
