//! Which commands a replay takes, in which order, and which it refuses.

use lapin::types::AMQPValue;
use serde_json::json;
use uuid::{Builder, Uuid};

use super::{allow, attempts, dead, forbid, kept, list, names, nothing_kept, roster, roster_says, run};
use crate::support::{Stage, eventually, person, tables};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_for_one_user_are_replayed_in_their_order() {
    const STEPS: usize = 40;
    let stage = Stage::new().await;
    let _workers = (
        stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await,
        stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await,
    );
    let caller = stage.service().await;
    let ids = [caller.create("ada").await, caller.create("bob").await];
    forbid(&stage, "Step%").await;
    let mut expected = vec!["Ada".to_owned()];
    for n in 0..STEPS {
        let name = format!("Step {n}");
        for id in ids {
            let update = caller.request("user.update.v1", json!({ "id": id, "name": name }));
            caller.send(&update.no_reply()).await;
        }
        kept(&stage, 2 * n + 2, |_| true).await;
        expected.push(name);
    }
    dead(&stage, 2 * STEPS).await;
    allow(&stage).await;
    let mine = list(&stage, &["--user", "ada@example.com", "--limit", "500"]);
    assert_eq!(mine.len(), STEPS);
    roster(&stage, &["replay", "--yes", "--user", &ids[0].to_string()]);
    dead(&stage, STEPS).await;
    assert_eq!(names(&stage, ids[0]).await, expected);
    assert_eq!(names(&stage, ids[1]).await.len(), 1, "the other user's were not asked for");
    roster(&stage, &["replay", "--yes", "--all"]);
    nothing_kept(&stage).await;
    expected[0] = "Bob".to_owned();
    assert_eq!(names(&stage, ids[1]).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_outside_the_window_is_refused_unless_sent_under_a_new_id() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await;
    let caller = stage.service().await;
    forbid(&stage, "Ada").await;
    let create = caller.request("user.create.v1", person("ada")).correlation(None);
    assert_eq!(caller.ask_with(&create).await.code(), "INTERNAL_ERROR");
    dead(&stage, 1).await;
    allow(&stage).await;
    // A week passes.
    let then = chrono::Utc::now() - chrono::Duration::days(9);
    let millis = u64::try_from(then.timestamp_millis()).unwrap();
    let old = Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid().to_string();
    let id = create.message_id.clone().unwrap();
    run(
        &stage,
        &format!(
            "update failed_commands set message_id = '{old}', issued_on = '{}',
                properties = replace(properties::text, '{id}', '{old}')::json",
            then.date_naive()
        ),
    )
    .await;
    let (code, _, said) = roster_says(&stage, &["replay", "--yes", &old]);
    assert!(code == 1 && said.contains("--new-id"), "{code}: {said}");
    dead(&stage, 1).await;
    for _ in 0..2 {
        roster_says(&stage, &["replay", "--yes", "--all", "--new-id"]);
    }
    let reply = caller.reply(&create.clone().id(&old)).await;
    assert_eq!(reply.data()["name"], "Ada", "its caller knows it by the old id");
    nothing_kept(&stage).await;
    let causes = tables::inbox(&stage.pool).await;
    assert_eq!(causes.len(), 1);
    assert_ne!(causes[0].message_id.to_string(), old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_inbox_has_answered_meanwhile_is_answered_and_not_run_again() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await;
    let caller = stage.service().await;
    forbid(&stage, "Ada").await;
    let create = caller.request("user.create.v1", person("ada"));
    assert_eq!(caller.ask_with(&create).await.code(), "INTERNAL_ERROR");
    dead(&stage, 1).await;
    allow(&stage).await;
    let first = caller.ask_with(&create.again()).await;
    assert_eq!(first.replayed, Some(false), "a failure is never stored as an answer");
    let id = create.message_id.as_deref().unwrap();
    assert!(roster(&stage, &["replay", id]).contains("stored answer"));
    roster(&stage, &["replay", id, "--yes", "--new-id"]);
    let reply = caller.reply(&create).await;
    assert_eq!((&reply.body, reply.replayed), (&first.body, Some(true)));
    nothing_kept(&stage).await;
    assert_eq!(tables::events(&stage.pool).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_with_a_bad_token_is_never_run_as_the_service_that_passed_it_on() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ada = caller.create("ada").await;
    let update = caller.request("user.update.v1", json!({ "id": ada, "name": "Countess" })).no_reply();
    caller.send(&update.header("authorization", AMQPValue::LongString("Bearer nonsense".into()))).await;
    let letters = dead(&stage, 1).await;
    roster(&stage, &["replay", "--yes", "--all"]);
    eventually("it is refused again", async || match tables::failed(&stage.pool).await.as_slice() {
        [letter] if letter.state == "dead" && letter.attempts == letters[0].attempts => Ok(()),
        failed => Err(format!("{failed:?}")),
    })
    .await;
    assert_eq!(tables::users(&stage.pool).await[0].version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_can_be_replayed_and_is_judged_anew() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ada = caller.request("user.create.v1", person("ada"));
    caller.ask_with(&ada).await.data();
    let late = Uuid::now_v7();
    let silent = |kind: &str, body| caller.request(kind, body).no_reply();
    let reused = silent("user.create.v1", person("bob")).id(ada.message_id.as_ref().unwrap());
    let nameless = silent("user.create.v1", person("cleo")).no_id();
    let early = silent("user.update.v1", json!({ "id": late, "name": "Dora" }));
    let broken = silent("user.create.v1", json!({})).body("{");
    for request in [&reused, &nameless, &early, &broken] {
        caller.send(request).await;
    }
    dead(&stage, 4).await;
    // Again, with everything as it was.
    roster(&stage, &["replay", "--all", "--yes"]);
    eventually("all are refused again", async || {
        let letters = list(&stage, &[]);
        let again = letters.iter().all(|letter| letter["state"] == "dead" && letter["running"] == false);
        let changed = letters.iter().all(|letter| letter["updated_at"] != letter["created_at"]);
        if again && changed && letters.len() == 4 { Ok(()) } else { Err(format!("{letters:?}")) }
    })
    .await;
    let letters = list(&stage, &[]);
    let mut reasons: Vec<_> = letters.iter().filter_map(|letter| letter["reason"].as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["malformed", "malformed", "message_id_reused", "refused"]);
    // Now that there is such a user, and under ids of their own.
    let mut dora = person("dora");
    dora["id"] = json!(late);
    caller.ask("user.create.v1", dora).await.data();
    roster(&stage, &["replay", "--all", "--yes", "--new-id"]);
    let left = dead(&stage, 1).await;
    assert_eq!(left[0].reason.as_deref(), Some("malformed"), "there is no mending that one");
    let mut created: Vec<_> = tables::users(&stage.pool).await.into_iter().map(|user| user.name).collect();
    created.sort_unstable();
    assert_eq!(created, ["Ada", "Bob", "Cleo", "Dora"]);
    assert_eq!(names(&stage, late).await, ["Dora"], "renamed to what it was called already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_on_one_rung_of_the_ladder_do_not_overtake_each_other() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1h").start().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    forbid(&stage, "Step%").await;
    for n in 0..3 {
        let update = caller.request("user.update.v1", json!({ "id": id, "name": format!("Step {n}") }));
        caller.send(&update.no_reply()).await;
        kept(&stage, n + 1, |_| true).await;
    }
    attempts(&stage, 1).await;
    allow(&stage).await;
    // The later ones are due long before the first.
    run(
        &stage,
        "update failed_commands set due_at = case
            when id = (select id from failed_commands order by created_at, id limit 1)
            then now() + interval '2 seconds' else now() end",
    )
    .await;
    nothing_kept(&stage).await;
    assert_eq!(names(&stage, id).await, ["Ada", "Step 0", "Step 1", "Step 2"]);
}
