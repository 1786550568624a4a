//! What happens to a message that is sent again, or whose id is used again, while the first is kept.

use serde_json::json;

use super::{allow, dead, forbid, kept, nothing_kept, roster_says};
use crate::support::{Stage, Worker, eventually, person, tables};

/// Waits until so many deliveries were found to be kept already.
async fn told_to_wait(worker: &mut Worker, deliveries: u32) {
    eventually("they are told to wait", async || {
        match worker.metric("roster_commands_total", &["outcome=\"waits\""]).await {
            count if count == f64::from(deliveries) => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_who_sent_a_waiting_command_gets_its_answer() {
    let stage = Stage::new().await;
    let mut worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1h,1h").start().await;
    let (caller, other) = (stage.service().await, stage.service().await);
    forbid(&stage, "Ada").await;
    let create = caller.request("user.create.v1", person("ada"));
    let (again, elsewhere) = (create.again(), create.again());
    caller.send(&create).await;
    kept(&stage, 1, |_| true).await;
    for _ in 0..3 {
        caller.send(&again).await;
        other.send(&elsewhere).await;
    }
    told_to_wait(&mut worker, 6).await;
    super::waiters(&stage, 2).await;
    let waiting = kept(&stage, 1, |row| row.state == "waiting").await;
    assert_eq!(waiting[0].attempts, 1, "sending it again is no try");
    allow(&stage).await;
    tables::hurry(&stage.pool).await;
    let replies = [caller.reply(&create).await, caller.reply(&again).await, other.reply(&elsewhere).await];
    assert!(replies.iter().all(|reply| reply.body == replies[0].body));
    assert_eq!(replies.map(|reply| reply.replayed), [Some(false), Some(true), Some(true)]);
    nothing_kept(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_update_that_would_succeed_now_still_waits_when_it_is_sent_again() {
    let stage = Stage::new().await;
    let mut worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1h").start().await;
    let caller = stage.service().await;
    let ada = caller.create("ada").await;
    forbid(&stage, "Countess").await;
    let update = caller.request("user.update.v1", json!({ "id": ada, "name": "Countess" }));
    caller.send(&update).await;
    kept(&stage, 1, |_| true).await;
    allow(&stage).await;
    let again = update.again();
    caller.send(&again).await;
    told_to_wait(&mut worker, 1).await;
    assert_eq!(tables::users(&stage.pool).await[0].version, 1);
    tables::hurry(&stage.pool).await;
    let replies = [caller.reply(&update).await, caller.reply(&again).await];
    assert_eq!(replies[0].data()["version"], 2);
    assert_eq!(replies[0].body, replies[1].body);
    nothing_kept(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_command_that_takes_long_is_held_on_to() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1h").start().await;
    let caller = stage.service().await;
    let ada = caller.create("ada").await;
    forbid(&stage, "Countess").await;
    let update = caller.request("user.update.v1", json!({ "id": ada, "name": "Countess" }));
    caller.send(&update).await;
    kept(&stage, 1, |_| true).await;
    allow(&stage).await;
    let gate = tables::hold_commit(&stage.pool, ada, 2).await;
    tables::hurry(&stage.pool).await;
    let mut claims = Vec::new();
    eventually("its claim is made to last longer", async || {
        claims.extend(tables::claimed_until(&stage.pool).await);
        claims.dedup();
        if claims.len() > 1 { Ok(()) } else { Err(format!("{claims:?}")) }
    })
    .await;
    drop(gate);
    assert_eq!(caller.reply(&update).await.version(), 2);
    nothing_kept(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_very_many_who_wait_the_last_are_answered() {
    let stage = Stage::new().await;
    let mut worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1h").start().await;
    let caller = stage.service().await;
    forbid(&stage, "Ada").await;
    let create = caller.request("user.create.v1", person("ada"));
    caller.send(&create).await;
    kept(&stage, 1, |_| true).await;
    let again: Vec<_> = (0..40).map(|_| create.again()).collect();
    for again in &again {
        caller.send(again).await;
    }
    told_to_wait(&mut worker, 40).await;
    allow(&stage).await;
    tables::hurry(&stage.pool).await;
    for again in &again[8..] {
        caller.reply(again).await.data();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_of_a_waiting_command_is_not_to_be_used_for_another() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1h").start().await;
    let caller = stage.service().await;
    forbid(&stage, "Ada").await;
    let create = caller.request("user.create.v1", person("ada"));
    caller.send(&create).await;
    kept(&stage, 1, |_| true).await;
    // One that would succeed, and one that would fail as the first did.
    for name in ["bob", "adalbert"] {
        let mut body = person(name);
        body["name"] = json!(if name == "bob" { "Bob" } else { "Ada" });
        let reused = create.again().json(&body);
        assert_eq!(caller.ask_with(&reused).await.refusal(), "CONFLICT message_id_reused", "{name}");
    }
    allow(&stage).await;
    tables::hurry(&stage.pool).await;
    assert_eq!(caller.reply(&create).await.data()["name"], "Ada");
    assert_eq!(tables::users(&stage.pool).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_dead_letters_with_one_id_hold_nobody_up() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let broken = caller.request("user.create.v1", json!({ "name": "" })).no_reply();
    caller.send(&broken).await;
    dead(&stage, 1).await;
    caller.send(&broken.clone().json(&json!({ "name": 1 }))).await;
    caller.send(&broken.clone().json(&json!({ "name": 2 }))).await;
    dead(&stage, 3).await;
    for name in ["ada", "bob", "cleo", "dora", "eve"] {
        caller.create(name).await;
    }
    // What was only refused leaves its id to what mends it.
    let mended = broken.again().json(&person("fay")).reply_to("amq.rabbitmq.reply-to");
    caller.ask_with(&mended).await.data();
    // And the answer to that is not the first one's.
    let id = mended.message_id.as_deref().unwrap();
    let (_, planned, _) = roster_says(&stage, &["replay", id]);
    assert!(planned.contains("run") && !planned.contains("stored answer"), "{planned}");
    let (_, planned, _) = roster_says(&stage, &["replay", id, "--new-id"]);
    assert!(planned.contains("run under a new id"), "{planned}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_is_sent_again_is_judged_anew() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await;
    let caller = stage.service().await;
    forbid(&stage, "Ada").await;
    let create = caller.request("user.create.v1", person("ada"));
    assert_eq!(caller.ask_with(&create).await.code(), "INTERNAL_ERROR");
    let again = create.again();
    assert_eq!(caller.ask_with(&again).await.code(), "INTERNAL_ERROR");
    let letters = dead(&stage, 1).await;
    assert_eq!(letters[0].attempts, 2, "the second delivery was tried as often as the first");
    allow(&stage).await;
    caller.ask_with(&create.again()).await.data();
}
