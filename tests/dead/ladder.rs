//! Tried again, as often as promised, and then a dead letter.

use lapin::types::AMQPValue;
use serde_json::json;

use super::{allow, attempts, dead, forbid, list, nothing_kept, roster};
use crate::support::{Stage, Worker, person, tables};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A worker that tries soon again, and then hardly ever.
async fn patient(stage: &Stage, delays: &str) -> Worker {
    stage.worker().env("ROSTER_RETRY_DELAYS", delays).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_is_tried_again_until_the_cause_is_gone() {
    let stage = Stage::new().await;
    let _worker = patient(&stage, "100ms,100ms,1h").await;
    let caller = stage.service().await;
    forbid(&stage, "Ada%").await;
    let create = caller.request("user.create.v1", person("ada"));
    let bob = caller.request("user.create.v1", person("bob"));
    caller.send(&create).await;
    caller.send(&bob).await;
    caller.reply(&bob).await.data();
    attempts(&stage, 3).await;
    let waiting = &list(&stage, &["--state", "waiting"])[0];
    assert_eq!((&waiting["attempts"], &waiting["reason"]), (&json!(3), &json!("failed")));
    allow(&stage).await;
    tables::hurry(&stage.pool).await;
    let reply = caller.reply(&create).await;
    assert_eq!((reply.data()["name"].as_str(), reply.replayed), (Some("Ada"), Some(false)));
    nothing_kept(&stage).await;
    let again = caller.ask_with(&create.again()).await;
    assert_eq!((&again.body, again.replayed), (&reply.body, Some(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_its_last_try_it_is_a_dead_letter_and_its_caller_is_told() {
    let stage = Stage::new().await;
    let _worker = patient(&stage, "100ms,100ms").await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    forbid(&stage, "Countess").await;
    let update = caller.request("user.update.v1", json!({ "id": id, "name": "Countess" }));
    let reply = caller.ask_with(&update).await;
    assert_eq!((reply.code(), reply.replayed), ("INTERNAL_ERROR", Some(false)));
    assert!(!reply.body.to_string().contains("42000"), "it tells no internals: {}", reply.body);
    let letter = &dead(&stage, 1).await[0];
    assert_eq!((letter.reason.as_deref(), letter.attempts), (Some("failed"), 3));
    let shown = roster(&stage, &["list"]);
    for part in [update.message_id.as_deref().unwrap(), "user.update.v1", "failed", "dead", "42000"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert_eq!(tables::events(&stage.pool).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_keeps_id_reply_queue_actor_and_trace_and_is_handled_once() {
    let stage = Stage::new().await;
    let _worker = patient(&stage, "1ms").await;
    let caller = stage.service().await;
    let events = stage.subscriber().await;
    let id = caller.create("ada").await;
    forbid(&stage, "Countess").await;
    let body = json!({ "id": id, "role": "admin", "name": "Countess" });
    let trace = AMQPValue::LongString(TRACE.into());
    let update = caller.request("user.update.v1", json!({ "id": id, "name": body["name"] }));
    let update = update.header("traceparent", trace);
    assert_eq!(caller.ask_with(&update).await.code(), "INTERNAL_ERROR");
    dead(&stage, 1).await;
    allow(&stage).await;

    let message_id = update.message_id.clone().unwrap();
    let planned = roster(&stage, &["replay", &message_id]);
    assert!(planned.contains(&message_id) && planned.contains("run"), "{planned}");
    assert_eq!(dead(&stage, 1).await.len(), 1, "nothing was done yet");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| super::roster_says(&stage, &["replay", "--yes", &message_id]));
        }
    });
    let reply = caller.reply(&update).await;
    assert_eq!((reply.version(), reply.replayed), (2, Some(false)));
    assert_eq!(reply.traceparent.as_deref(), Some(TRACE));
    nothing_kept(&stage).await;
    let seen = events.wait_for_sequence(&id.to_string(), 2).await;
    let renamed = &seen.iter().find(|event| event.sequence == 2).unwrap().body;
    assert_eq!(renamed["causationid"].as_str(), update.message_id.as_deref());
    assert_eq!(renamed["correlationid"].as_str(), update.correlation_id.as_deref());
    assert_eq!(renamed["actor"], format!("service:{}", crate::support::broker::user()));
    assert_eq!(renamed["traceparent"], TRACE);
    assert_eq!(tables::events(&stage.pool).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_command_past_its_deadline_is_expired() {
    let stage = Stage::new().await;
    let _worker = patient(&stage, "1s").await;
    let caller = stage.service().await;
    forbid(&stage, "Ada").await;
    let deadline = (chrono::Utc::now() + chrono::Duration::milliseconds(900)).to_rfc3339();
    let create = caller.request("user.create.v1", person("ada")).deadline(&deadline);
    caller.send(&create).await;
    super::kept(&stage, 1, |_| true).await;
    allow(&stage).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    tables::hurry(&stage.pool).await;
    assert_eq!(caller.reply(&create).await.refusal(), "EXPIRED deadline_passed");
    nothing_kept(&stage).await;
    assert!(tables::users(&stage.pool).await.is_empty());
}
