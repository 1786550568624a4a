//! Same message, same answer: duplicates, reused ids, and how old an id may be.

use std::time::{SystemTime, UNIX_EPOCH};

use rstest::rstest;
use serde_json::json;
use uuid::{Builder, Uuid};

use crate::support::{Caller, Request, Stage, person, tables};

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;

/// Seconds since 1970, `offset` seconds from now.
fn at(offset: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    now.checked_add_signed(offset).unwrap()
}

/// A UUIDv7 that says it was made `offset` seconds from now.
fn v7(offset: i64) -> Uuid {
    Builder::from_unix_timestamp_millis(at(offset) * 1000, &rand::random()).into_uuid()
}

#[tokio::test]
async fn a_message_sent_again_gets_the_first_answer_and_has_no_second_effect() {
    let (stage, mut worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let create = caller.request("user.create.v1", person("ada"));
    let first = caller.ask_with(&create).await;
    assert_eq!(first.replayed, Some(false));
    let body = json!({ "id": first.id(), "name": "Countess" });
    caller.ask("user.update.v1", body).await;
    let again = caller.ask_with(&create.again()).await;
    assert_eq!((&again.body, again.replayed), (&first.body, Some(true)));
    worker.restart().await;
    let again = caller.ask_with(&create.again()).await;
    assert_eq!((&again.body, again.replayed), (&first.body, Some(true)));
    assert_eq!(tables::events(&stage.pool).await.len(), 2);
}

#[tokio::test]
async fn the_answer_goes_to_the_newer_reply_queue() {
    let (stage, _worker) = Stage::with_worker().await;
    let (first, second) = (stage.service().await, stage.service().await);
    let create = first.request("user.create.v1", person("ada"));
    let answer = first.ask_with(&create).await;
    let again = second.ask_with(&create.again()).await;
    assert_eq!(again.body, answer.body);
}

#[tokio::test]
async fn a_refusal_by_state_is_stored_although_the_state_has_changed() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = Uuid::now_v7();
    let update = caller.request("user.update.v1", json!({ "id": id, "name": "Ada" }));
    let first = caller.ask_with(&update).await;
    assert_eq!(first.code(), "NOT_FOUND");
    let mut ada = person("ada");
    ada["id"] = json!(id);
    caller.ask("user.create.v1", ada).await.data();
    let again = caller.ask_with(&update.again()).await;
    assert_eq!((&again.body, again.replayed), (&first.body, Some(true)));
}

#[tokio::test]
async fn what_is_judged_anew_does_not_use_up_its_message_id() {
    let (stage, _worker) = Stage::with_worker().await;
    let (caller, anyone) = (stage.service().await, stage.anonymous().await);
    let id = caller.create("ada").await;
    let good = json!({ "id": id, "name": "Countess" });
    let invalid = caller.request("user.update.v1", json!({ "id": id, "name": "" }));
    let late = caller.request("user.update.v1", good.clone());
    let nobody = anyone.request("user.update.v1", good.clone());
    for (refused, mended, code) in [
        (invalid.clone(), invalid.again().json(&good), "BAD_REQUEST"),
        (late.clone().deadline("2020-01-01T00:00:00Z"), late.again(), "EXPIRED"),
        (nobody.clone(), nobody.again().user(caller.request("", json!({})).user_id), "UNAUTHORIZED"),
    ] {
        let reply = caller.ask_with(&refused).await;
        assert_eq!((reply.code(), reply.replayed), (code, Some(false)));
        let reply = caller.ask_with(&refused.again()).await;
        assert_eq!((reply.code(), reply.replayed), (code, Some(false)));
        let reply = caller.ask_with(&mended).await;
        assert_eq!((reply.version(), reply.replayed), (2, Some(false)), "after {code}");
    }
}

#[tokio::test]
async fn a_stored_answer_is_sent_whatever_the_earlier_steps_would_say_now() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let create = caller.request("user.create.v1", person("ada"));
    let first = caller.ask_with(&create).await;
    let late = create.again().deadline("2020-01-01T00:00:00Z");
    let again = caller.ask_with(&late).await;
    assert_eq!((&again.body, again.replayed), (&first.body, Some(true)));
}

#[tokio::test]
async fn an_id_used_for_something_else_is_refused_and_changes_nothing() {
    let (stage, _worker) = Stage::with_worker().await;
    let (caller, anyone) = (stage.service().await, stage.anonymous().await);
    let create = caller.request("user.create.v1", person("ada"));
    let first = caller.ask_with(&create).await;
    let id = first.id();
    let spaced = format!("{} ", String::from_utf8_lossy(&create.body));
    let update = json!({ "id": id, "name": "Eve" });
    for (what, other) in [
        ("body", create.again().json(&person("bob"))),
        ("bytes", create.again().body(spaced)),
        ("type", create.again().kind("user.update.v1").json(&update)),
        ("actor", create.again().user(anyone.request("", json!({})).user_id)),
    ] {
        let reply = caller.ask_with(&other).await;
        assert_eq!(reply.refusal(), "CONFLICT message_id_reused", "another {what}");
        assert_eq!(reply.replayed, Some(false));
    }
    assert_eq!(tables::events(&stage.pool).await.len(), 1);
    let again = caller.ask_with(&create.again()).await;
    assert_eq!(again.body, first.body, "the first answer stays");
}

#[tokio::test]
async fn any_other_uuid_is_an_id_together_with_its_timestamp() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let create = caller.request("user.create.v1", person("ada")).id(Uuid::new_v4());
    let reply = caller.ask_with(&create).await;
    assert_eq!(reply.code(), "BAD_REQUEST");
    let expected = ("timestamp".to_owned(), "missing".to_owned());
    assert!(reply.reasons().contains(&expected), "{}", reply.body);
    let create = create.again().timestamp(at(-DAY));
    let first = caller.ask_with(&create).await;
    assert_eq!(first.replayed, Some(false));
    let again = caller.ask_with(&create.again()).await;
    assert_eq!((&again.body, again.replayed), (&first.body, Some(true)));
}

async fn judged(caller: &Caller, name: &str, id: Uuid, timestamp: Option<u64>) -> String {
    let mut request = caller.request("user.create.v1", person(name)).id(id);
    request.timestamp = timestamp;
    let reply = caller.ask_with(&request).await;
    match reply.is_success() {
        true => {
            let again = caller.ask_with(&request.again()).await;
            assert_eq!((&again.body, again.replayed), (&reply.body, Some(true)), "{name}");
            "done once".to_owned()
        }
        false => reply.refusal(),
    }
}

#[tokio::test]
async fn an_id_is_good_for_the_window_and_ten_minutes_ahead() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let expired = "EXPIRED outside_dedupe_window";
    let ahead = "BAD_REQUEST invalid_value";
    for (name, offset, expected) in [
        ("today", 0, "done once"),
        ("almost", -7 * DAY + 5 * MINUTE, "done once"),
        ("threedays", -3 * DAY, "done once"),
        ("ahead", 8 * MINUTE, "done once"),
        ("old", -8 * DAY - 10 * MINUTE, expired),
        ("ancient", -400 * DAY, expired),
        ("future", 12 * MINUTE, ahead),
        ("far", 400 * DAY, ahead),
    ] {
        let outcome = judged(&caller, name, v7(offset), None).await;
        assert_eq!(outcome, expected, "UUIDv7, {name}");
        let outcome = judged(&caller, &format!("{name}4"), Uuid::new_v4(), Some(at(offset))).await;
        assert_eq!(outcome, expected, "UUIDv4, {name}");
    }
    assert_eq!(tables::events(&stage.pool).await.len(), 8);
}

#[tokio::test]
async fn the_window_is_a_setting() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_DEDUPE_DAYS", 2).start().await;
    let caller = stage.service().await;
    assert_eq!(judged(&caller, "ada", v7(-DAY), None).await, "done once");
    let outcome = judged(&caller, "bob", v7(-3 * DAY), None).await;
    assert_eq!(outcome, "EXPIRED outside_dedupe_window");
}

#[rstest]
#[case::on_one_worker(1)]
#[case::on_two_workers(2)]
#[tokio::test]
async fn a_message_sent_many_times_at_once_has_one_effect_and_one_answer(#[case] workers: usize) {
    let stage = Stage::new().await;
    let mut all = Vec::new();
    for _ in 0..workers {
        all.push(stage.worker().start().await);
    }
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    let messages: Vec<Request> = (0..10)
        .map(|n| caller.request("user.update.v1", json!({ "id": id, "name": format!("Ada {n}") })))
        .collect();
    let copies: Vec<Request> = (0..8).flat_map(|_| messages.iter().map(Request::again)).collect();
    let replies = caller.ask_all(&copies).await;
    for (n, message) in messages.iter().enumerate() {
        let mine = copies.iter().zip(&replies);
        let mine = mine.filter(|(copy, _)| copy.message_id == message.message_id);
        let mine: Vec<_> = mine.map(|(_, reply)| reply).collect();
        assert!(mine.iter().all(|reply| reply.body == mine[0].body), "message {n}: {mine:?}");
        let new = mine.iter().filter(|reply| reply.replayed == Some(false));
        assert_eq!(new.count(), 1, "message {n} is new once");
    }
    let events = tables::events(&stage.pool).await;
    assert_eq!(events.len(), 11);
}
