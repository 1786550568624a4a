//! The user commands: what each answers, refuses and leaves alone.

use std::collections::BTreeSet;

use rstest::rstest;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Stage, eventually, person, tables};

fn pairs(expected: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    let owned = |(field, reason): &(&str, &str)| ((*field).to_owned(), (*reason).to_owned());
    expected.iter().map(owned).collect()
}

#[tokio::test]
async fn a_created_user_is_answered_whole_and_can_be_fetched() {
    let (stage, _worker) = Stage::with_worker().await;
    let anyone = stage.anonymous().await;
    let service = stage.service().await;
    let reply = anyone
        .ask(
            "user.create.v1",
            json!({ "email": "  Ada@Example.COM ", "name": " Ada Lovelace ", "password": "12345678" }),
        )
        .await;
    let user = reply.data();
    assert_eq!(user["email"], "ada@example.com");
    assert_eq!(user["name"], "Ada Lovelace");
    assert_eq!(user["role"], "user");
    assert_eq!(user["version"], 1);
    assert_eq!(user["created_at"], user["updated_at"]);
    let keys: Vec<&str> = user.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = ["id", "email", "name", "role", "version", "created_at", "updated_at"];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(reply.replayed, Some(false));
    assert_eq!(reply.kind.as_deref(), Some("reply"));
    assert_eq!(reply.content_type.as_deref(), Some("application/json"));
    let fetched = service.ask("user.get.v1", json!({ "id": reply.id() })).await;
    assert_eq!(fetched.data(), user);
}

#[tokio::test]
async fn a_user_gets_the_id_that_the_caller_chose_once() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = Uuid::now_v7();
    let mut ada = person("ada");
    ada["id"] = json!(id);
    assert_eq!(caller.ask("user.create.v1", ada).await.id(), id);
    let mut bob = person("bob");
    bob["id"] = json!(id);
    let reply = caller.ask("user.create.v1", bob).await;
    assert_eq!(reply.refusal(), "CONFLICT id_taken");
}

/// `user.create.v1` bodies, each with every field and reason that must be named.
fn bad_creations() -> Vec<(Value, BTreeSet<(String, String)>)> {
    let with = |field: &str, value: Value| {
        let mut body = person("ada");
        body[field] = value;
        body
    };
    vec![
        (json!({}), pairs(&[("email", "missing"), ("name", "missing"), ("password", "missing")])),
        (
            json!({ "email": "nope", "name": "x", "password": "seven77" }),
            pairs(&[("email", "invalid_email"), ("name", "too_short"), ("password", "too_short")]),
        ),
        (
            json!({ "email": "nope", "name": "Ada", "role": "owner", "id": "7", "nmae": 1 }),
            pairs(&[
                ("email", "invalid_email"),
                ("password", "missing"),
                ("role", "invalid_value"),
                ("id", "invalid_uuid"),
                ("nmae", "unknown_field"),
            ]),
        ),
        (with("name", json!("n".repeat(101))), pairs(&[("name", "too_long")])),
        (with("name", json!("  a  ")), pairs(&[("name", "too_short")])),
        (with("name", json!("Ada\u{7}")), pairs(&[("name", "invalid_value")])),
        (with("name", json!("Ada\u{0}")), pairs(&[("name", "invalid_value")])),
        (with("password", json!("p".repeat(1025))), pairs(&[("password", "too_long")])),
        (with("password", json!("eight88\u{0}")), pairs(&[("password", "invalid_value")])),
        (with("email", json!("a b@example.com")), pairs(&[("email", "invalid_email")])),
        (with("email", json!("ädä@example.com")), pairs(&[("email", "invalid_email")])),
        (with("id", json!("not-a-uuid")), pairs(&[("id", "invalid_uuid")])),
        (with("emial", json!("x")), pairs(&[("emial", "unknown_field")])),
        (with("name", Value::Null), pairs(&[("name", "missing")])),
        (with("name", json!(7)), pairs(&[("name", "invalid_value")])),
    ]
}

#[tokio::test]
async fn every_invalid_field_is_named_at_once_and_no_value_is_echoed() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let mut wrong = Vec::new();
    for (body, expected) in bad_creations() {
        let reply = caller.ask("user.create.v1", body.clone()).await;
        if reply.code() != "BAD_REQUEST" || reply.reasons() != expected {
            wrong.push(format!("{body}\n  gave {}\n  not {expected:?}", reply.body));
        }
        let values = body.as_object().unwrap().values();
        for value in values.filter_map(|value| value.as_str().filter(|text| text.len() > 6)) {
            assert!(!reply.body.to_string().contains(value), "echoed: {}", reply.body);
        }
        for detail in reply.body["error"]["details"].as_array().unwrap() {
            assert!(detail["message"].as_str().is_some_and(|text| !text.is_empty()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tables::users(&stage.pool).await.is_empty());
}

#[tokio::test]
async fn names_are_measured_in_characters_and_passwords_in_bytes() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let body = json!({ "email": "a@b", "name": "𝒜".repeat(100), "password": "éééé" });
    let reply = caller.ask("user.create.v1", body).await;
    assert_eq!(reply.data()["name"].as_str().unwrap().chars().count(), 100);
    let body = json!({ "email": "c@d", "name": "𝒜𝒜", "password": "é".repeat(513) });
    let reply = caller.ask("user.create.v1", body).await;
    assert_eq!(reply.reasons(), pairs(&[("password", "too_long")]));
}

#[tokio::test]
async fn an_update_changes_what_it_names() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    let body = json!({ "id": id, "name": "Countess", "email": "COUNTESS@example.com" });
    let reply = caller.ask("user.update.v1", body).await;
    assert_eq!(reply.data()["name"], "Countess");
    assert_eq!(reply.data()["email"], "countess@example.com");
    assert_eq!(reply.version(), 3);
    let reply = caller.ask("user.update.v1", json!({ "id": id, "name": "Ada" })).await;
    assert_eq!(reply.data()["email"], "countess@example.com");
    assert_eq!(reply.version(), 4);
}

#[tokio::test]
async fn commands_that_change_nothing_keep_the_version() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    for (kind, body) in [
        ("user.update.v1", json!({ "id": id, "name": "Ada" })),
        ("user.update.v1", json!({ "id": id, "email": "ADA@example.com" })),
        ("user.change_role.v1", json!({ "id": id, "role": "user" })),
    ] {
        let reply = caller.ask(kind, body.clone()).await;
        assert_eq!(reply.version(), 1, "{kind} {body}");
        assert_eq!(reply.data()["updated_at"], reply.data()["created_at"]);
    }
    assert_eq!(tables::events(&stage.pool).await.len(), 1);
}

#[rstest]
#[case::update("user.update.v1", json!({ "name": "Countess" }))]
#[case::role("user.change_role.v1", json!({ "role": "admin" }))]
#[case::delete("user.delete.v1", json!({}))]
#[tokio::test]
async fn a_stale_expected_version_changes_nothing(#[case] kind: &str, #[case] mut body: Value) {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    body["id"] = json!(id);
    body["expected_version"] = 2.into();
    let reply = caller.ask(kind, body.clone()).await;
    assert_eq!(reply.refusal(), "CONFLICT version_mismatch");
    body["expected_version"] = 1.into();
    assert!(caller.ask(kind, body).await.is_success());
}

#[tokio::test]
async fn an_email_that_is_taken_is_a_conflict_whatever_its_case() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    caller.create("ada").await;
    let bob = caller.create("bob").await;
    let mut again = person("ada");
    again["email"] = "ADA@example.com".into();
    let reply = caller.ask("user.create.v1", again).await;
    assert_eq!(reply.refusal(), "CONFLICT email_taken");
    let body = json!({ "id": bob, "email": "Ada@Example.com" });
    let reply = caller.ask("user.update.v1", body).await;
    assert_eq!(reply.refusal(), "CONFLICT email_taken");
    assert_eq!(reply.reasons(), pairs(&[("email", "email_taken")]));
}

#[rstest]
#[case::inside_one_worker(1)]
#[case::between_two_workers(2)]
#[tokio::test]
async fn of_many_who_want_one_email_at_once_one_gets_it(#[case] workers: usize) {
    let (stage, first) = Stage::with_worker().await;
    let mut all = vec![first];
    while all.len() < workers {
        all.push(stage.worker().start().await);
    }
    let caller = stage.service().await;
    let ids = caller.create_many("user", 6).await;
    // Held back, so that they meet in one batch, or in one in each worker.
    all.iter().for_each(|worker| worker.freeze());
    let mut requests: Vec<_> = (0..6).map(|_| caller.request("user.create.v1", person("ada"))).collect();
    requests.extend(
        ids.iter()
            .map(|id| caller.request("user.update.v1", json!({ "id": id, "email": "ada@example.com" }))),
    );
    for request in &requests {
        caller.send(request).await;
    }
    all.iter().for_each(|worker| worker.thaw());
    let mut winners = 0;
    for request in &requests {
        let reply = caller.reply(request).await;
        match reply.is_success() {
            true => winners += 1,
            false => assert_eq!(reply.refusal(), "CONFLICT email_taken"),
        }
    }
    assert_eq!(winners, 1);
    let users = tables::users(&stage.pool).await;
    let owners = users.iter().filter(|user| user.email == "ada@example.com");
    assert_eq!(owners.count(), 1);
}

#[tokio::test]
async fn an_email_can_be_taken_in_the_batch_that_frees_it_but_not_swapped() {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_LANES", 1).start().await;
    let caller = stage.service().await;
    let (ada, bob) = (caller.create("ada").await, caller.create("bob").await);
    let update = |id: Uuid, name: &str| {
        let email = format!("{name}@example.com");
        caller.request("user.update.v1", json!({ "id": id, "email": email }))
    };
    worker.freeze();
    let swap = [update(ada, "bob"), update(bob, "ada")];
    let moves = [update(ada, "free"), update(bob, "ada")];
    for request in swap.iter().chain(&moves) {
        caller.send(request).await;
    }
    worker.thaw();
    for request in &swap {
        // One by one, each finds the other's address still taken.
        assert_eq!(caller.reply(request).await.refusal(), "CONFLICT email_taken");
    }
    for request in &moves {
        assert_eq!(caller.reply(request).await.version(), 2);
    }
}

#[tokio::test]
async fn an_admin_changes_a_role_and_a_password() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    let reply = caller.ask("user.change_role.v1", json!({ "id": id, "role": "admin" })).await;
    assert_eq!((reply.data()["role"].as_str(), reply.version()), (Some("admin"), 2));
    let reply = caller.ask("user.change_role.v1", json!({ "id": id, "role": "root" })).await;
    assert_eq!(reply.reasons(), pairs(&[("role", "invalid_value")]));
    let hash = "select password_hash from users";
    let before: String = sqlx::query_scalar(hash).fetch_one(&stage.pool).await.unwrap();
    let body = json!({ "id": id, "new_password": "a new secret" });
    let reply = caller.ask("user.change_password.v1", body).await;
    assert_eq!(reply.version(), 3);
    let after: String = sqlx::query_scalar(hash).fetch_one(&stage.pool).await.unwrap();
    assert_ne!(before, after);
    let body = json!({ "id": id, "new_password": "short" });
    let reply = caller.ask("user.change_password.v1", body).await;
    assert_eq!(reply.reasons(), pairs(&[("new_password", "too_short")]));
}

#[tokio::test]
async fn a_deleted_user_is_answered_as_it_was_then_is_gone_and_its_email_is_free() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    let before = caller.ask("user.get.v1", json!({ "id": id })).await;
    let reply = caller.ask("user.delete.v1", json!({ "id": id })).await;
    assert_eq!(reply.data(), before.data());
    for (kind, body) in [
        ("user.get.v1", json!({ "id": id })),
        ("user.get.v1", json!({ "email": "ada@example.com" })),
        ("user.update.v1", json!({ "id": id, "name": "Ghost" })),
        ("user.change_role.v1", json!({ "id": id, "role": "admin" })),
        ("user.change_password.v1", json!({ "id": id, "new_password": "a new secret" })),
        ("user.delete.v1", json!({ "id": id })),
    ] {
        assert_eq!(caller.ask(kind, body).await.code(), "NOT_FOUND", "{kind}");
    }
    let again = caller.create("ada").await;
    assert_ne!(again, id);
    let users = tables::users(&stage.pool).await;
    assert_eq!(users.iter().filter(|user| user.deleted).count(), 1, "kept in the table");
}

#[tokio::test]
async fn who_is_unknown_or_not_allowed_is_told_so_before_the_target_is_looked_up() {
    let stage = Stage::new().await;
    let user = crate::support::broker::user();
    let _worker = stage.worker().services(&format!("{user}=reader")).start().await;
    let (reader, anyone) = (stage.service().await, stage.anonymous().await);
    let known = anyone.create("ada").await;
    let mut admin = person("eve");
    admin["role"] = "admin".into();
    let mut cases = vec![("user.create.v1", admin)];
    for id in [known, Uuid::now_v7()] {
        cases.extend([
            ("user.update.v1", json!({ "id": id, "name": "Eve" })),
            ("user.change_role.v1", json!({ "id": id, "role": "admin" })),
            ("user.delete.v1", json!({ "id": id })),
            (
                "user.change_password.v1",
                json!({ "id": id, "new_password": "12345678", "current_password": "87654321" }),
            ),
        ]);
    }
    for (kind, body) in cases {
        let reply = anyone.ask(kind, body.clone()).await;
        assert_eq!(reply.refusal(), "UNAUTHORIZED missing_token", "{kind}");
        let reply = reader.ask(kind, body).await;
        assert_eq!(reply.refusal(), "FORBIDDEN not_allowed", "{kind}");
    }
    for (kind, body) in [
        ("user.get.v1", json!({ "id": known })),
        ("user.list.v1", json!({})),
        ("event.list.v1", json!({ "subject": known })),
    ] {
        assert!(reader.ask(kind, body.clone()).await.is_success(), "{kind}");
        let reply = anyone.ask(kind, body).await;
        assert_eq!(reply.refusal(), "UNAUTHORIZED missing_token", "{kind}");
    }
    let reply = anyone.ask("user.update.v1", json!({ "id": known, "name": "" })).await;
    assert_eq!(reply.code(), "BAD_REQUEST", "payload comes before access");
    assert_eq!(tables::events(&stage.pool).await.len(), 1);
}

#[tokio::test]
async fn a_service_that_is_not_listed_is_anonymous() {
    let stage = Stage::new().await;
    let _worker = stage.worker().services("").start().await;
    let service = stage.service().await;
    let reply = service.ask("user.list.v1", json!({})).await;
    assert_eq!(reply.refusal(), "UNAUTHORIZED missing_token");
}

#[tokio::test]
async fn a_query_after_the_reply_sees_the_command() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    for version in 2..30 {
        let name = format!("Ada {version}");
        caller.ask("user.update.v1", json!({ "id": id, "name": name })).await;
        let seen = caller.ask("user.get.v1", json!({ "id": id })).await;
        assert_eq!((seen.version(), seen.data()["name"].as_str()), (version, Some(&*name)));
    }
}

#[tokio::test]
async fn commands_for_one_user_keep_their_order_even_past_a_password_hash() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = Uuid::now_v7();
    let mut create = person("ada");
    create["id"] = json!(id);
    let mut requests = vec![caller.request("user.create.v1", create)];
    for n in 0..5 {
        let body = json!({ "id": id, "new_password": format!("secret number {n}") });
        requests.push(caller.request("user.change_password.v1", body));
        let body = json!({ "id": id, "name": format!("Ada {n}") });
        requests.push(caller.request("user.update.v1", body));
    }
    let replies = caller.ask_all(&requests).await;
    let versions: Vec<i64> = replies.iter().map(|reply| reply.version()).collect();
    assert_eq!(versions, (1..=11).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_password_change_does_not_overtake_what_its_lane_still_has_to_run() {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_LANES", 1).start().await;
    let caller = stage.service().await;
    let (ada, others) = (caller.create("ada").await, caller.create_many("user", 20).await);
    let mut requests = Vec::new();
    for n in 0..1000 {
        let body = json!({ "id": others[n % others.len()], "name": format!("Name {n}") });
        requests.push(caller.request("user.update.v1", body));
        if n % 100 == 50 {
            let body = json!({ "id": ada, "name": format!("Ada {n}") });
            requests.push(caller.request("user.update.v1", body));
            let body = json!({ "id": ada, "new_password": format!("secret number {n}") });
            requests.push(caller.request("user.change_password.v1", body));
        }
    }
    worker.freeze();
    for request in &requests {
        caller.publish(request).await.unwrap();
    }
    worker.thaw();
    let mut versions = Vec::new();
    for request in &requests {
        let reply = caller.reply(request).await;
        if reply.id() == ada {
            versions.push(reply.version());
        }
    }
    assert_eq!(versions, (2..=21).collect::<Vec<i64>>());
}

#[tokio::test]
async fn no_password_is_kept_or_logged_anywhere() {
    let (stage, mut worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let subscriber = stage.subscriber().await;
    let mut body = person("ada");
    body["password"] = "planted-secret-one".into();
    let id = caller.ask("user.create.v1", body.clone()).await.id();
    let change = json!({ "id": id, "new_password": "planted-secret-two" });
    caller.ask("user.change_password.v1", change.clone()).await;
    // Refused with nobody to tell: kept as dead letters, bodies and all.
    caller.send(&caller.request("user.create.v1", body.clone()).no_reply()).await;
    body["nmae"] = "planted-secret-three".into();
    caller.send(&caller.request("user.create.v1", body).no_reply()).await;
    let garbage = caller.request("user.create.v1", json!({})).no_reply();
    caller.send(&garbage.body(r#"{"password":"planted-secret-four"#)).await;
    eventually("three dead letters", async || match tables::failed(&stage.pool).await.len() {
        3 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    let seen = subscriber.wait_for(2).await;
    let mut places = tables::everything(&stage.pool).await;
    places.push(("events".to_owned(), format!("{seen:?}").into_bytes()));
    places.push(("metrics".to_owned(), worker.metrics().await.into_bytes()));
    places.extend(stage.logs());
    let history = crate::support::history::History {
        secrets: vec!["planted-secret".to_owned()],
        places,
        ..Default::default()
    };
    crate::support::checker::judge(&history).assert_holds(&["I9"]);
}
