//! Lists are exact at every moment, however far the directory that they are read from lags behind.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Caller, Stage, eventually, tables};

/// What a list has under `field`, in its order.
async fn listed(caller: &Caller, query: Value, field: &str) -> Vec<String> {
    let reply = caller.ask("user.list.v1", query).await;
    let users = reply.data().as_array().unwrap().iter();
    users.map(|user| user[field].as_str().unwrap().to_owned()).collect()
}

async fn folded(stage: &Stage) {
    eventually("everything is folded in", async || match tables::unfolded(&stage.pool).await {
        0 => Ok(()),
        count => Err(format!("{count} changes are not")),
    })
    .await;
    assert_eq!(tables::astray(&stage.pool).await, 0);
}

#[tokio::test]
async fn a_list_sees_each_change_before_it_is_folded_in_and_after() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let mut ids = Vec::new();
    for name in ["ada", "bob", "cyd", "dan"] {
        ids.push(caller.create(name).await);
    }
    folded(&stage).await;
    let held = tables::hold_folding(&stage.pool).await;
    let names = json!({ "sort": "name", "order": "asc" });
    let newest = json!({ "sort": "updated_at" });

    caller.ask("user.update.v1", json!({ "id": ids[1], "name": "Zoë" })).await.data();
    assert_eq!(listed(&caller, names.clone(), "name").await, ["Ada", "Cyd", "Dan", "Zoë"]);
    assert_eq!(listed(&caller, newest.clone(), "name").await, ["Zoë", "Dan", "Cyd", "Ada"]);
    caller.ask("user.update.v1", json!({ "id": ids[2], "email": "new@example.com" })).await.data();
    assert_eq!(listed(&caller, newest.clone(), "name").await[0], "Cyd");
    caller.ask("user.delete.v1", json!({ "id": ids[3] })).await.data();
    assert_eq!(listed(&caller, names.clone(), "name").await, ["Ada", "Cyd", "Zoë"]);
    caller.create("eve").await;
    assert_eq!(listed(&caller, json!({}), "name").await, ["Eve", "Cyd", "Zoë", "Ada"]);
    caller.ask("user.change_role.v1", json!({ "id": ids[0], "role": "admin" })).await.data();

    let check = async |when: &str| {
        for (query, expected) in [
            (names.clone(), vec!["Ada", "Cyd", "Eve", "Zoë"]),
            (newest.clone(), vec!["Ada", "Eve", "Cyd", "Zoë"]),
            (json!({}), vec!["Eve", "Cyd", "Zoë", "Ada"]),
            (json!({ "sort": "email", "order": "asc" }), vec!["Ada", "Zoë", "Eve", "Cyd"]),
            (json!({ "role": "admin" }), vec!["Ada"]),
            (json!({ "role": "user" }), vec!["Eve", "Cyd", "Zoë"]),
            (json!({ "search": "ZOË" }), vec!["Zoë"]),
            (json!({ "search": "bob" }), vec!["Zoë"]),
            (json!({ "search": "cyd" }), vec!["Cyd"]),
            (json!({ "search": "cyd@" }), vec![]),
            (json!({ "search": "new@" }), vec!["Cyd"]),
            (json!({ "search": "dan" }), vec![]),
            (json!({ "search": "example" }), vec!["Eve", "Cyd", "Zoë", "Ada"]),
        ] {
            let reply = caller.ask("user.list.v1", query.clone()).await;
            assert_eq!(reply.meta()["total"], expected.len(), "{when}: {query}");
            assert_eq!(listed(&caller, query.clone(), "name").await, expected, "{when}: {query}");
        }
    };
    assert!(tables::unfolded(&stage.pool).await >= 5);
    check("before").await;
    drop(held);
    folded(&stage).await;
    check("after").await;
}

#[tokio::test]
async fn a_walk_over_settled_and_fresh_users_loses_and_repeats_nobody() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ids = caller.create_many("user", 30).await;
    folded(&stage).await;
    let _held = tables::hold_folding(&stage.pool).await;
    for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 3 == 1) {
        let body =
            json!({ "id": id, "name": format!("{} renamed", 30 - n), "email": format!("a{n}@example.com") });
        caller.ask("user.update.v1", body).await.data();
    }
    for id in ids.iter().step_by(10) {
        caller.ask("user.delete.v1", json!({ "id": id })).await.data();
    }
    caller.create_many("fresh", 5).await;
    let stored = tables::users(&stage.pool).await;
    let versions: BTreeMap<Uuid, i64> =
        stored.iter().filter(|user| !user.deleted).map(|user| (user.id, user.version)).collect();
    assert_eq!(versions.len(), 32);
    for sort in ["created_at", "updated_at", "email", "name"] {
        for order in ["asc", "desc"] {
            for by_page in [true, false] {
                let what = format!("{sort} {order}, by page: {by_page}");
                let query = json!({ "sort": sort, "order": order, "per_page": 5, "total": true });
                let walked = walk(&caller, query, by_page, versions.len()).await;
                let keys: Vec<&str> =
                    walked.iter().map(|user| user[sort].as_str().unwrap().trim_end_matches('Z')).collect();
                let in_order = match order {
                    "asc" => keys.is_sorted(),
                    _ => keys.is_sorted_by(|a, b| a >= b),
                };
                assert!(in_order, "{what}: {keys:?}");
                let of = |user: &Value| {
                    (user["id"].as_str().unwrap().parse().unwrap(), user["version"].as_i64().unwrap())
                };
                assert_eq!(walked.len(), versions.len(), "{what}");
                assert_eq!(walked.iter().map(of).collect::<BTreeMap<_, _>>(), versions, "{what}");
            }
        }
    }
}

async fn walk(caller: &Caller, query: Value, by_page: bool, total: usize) -> Vec<Value> {
    let mut walked = Vec::new();
    let mut next = query.clone();
    for page in 2.. {
        let reply = caller.ask("user.list.v1", next).await;
        assert_eq!(reply.meta()["total"], total);
        walked.extend(reply.data().as_array().unwrap().iter().cloned());
        let cursor = reply.meta()["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
        next = query.clone();
        if by_page {
            next["page"] = page.into();
        } else {
            next["cursor"] = cursor;
        }
    }
    walked
}

#[tokio::test]
async fn two_workers_fold_at_once_and_nobody_is_ever_missing() {
    let stage = Stage::new().await;
    let _workers = [stage.worker().start().await, stage.worker().start().await];
    let caller = stage.service().await;
    let ids = caller.create_many("user", 60).await;
    let mut gone = BTreeSet::new();
    for round in 0..30 {
        let mut requests = Vec::new();
        for (n, id) in ids.iter().enumerate() {
            let body = match (round + n) % 29 {
                0 => json!({ "id": id, "email": format!("r{round}n{n}@example.com") }),
                _ => json!({ "id": id, "name": format!("Name {round} {n}") }),
            };
            requests.push(caller.request("user.update.v1", body));
        }
        let leaver = ids[round];
        requests.push(caller.request("user.delete.v1", json!({ "id": leaver })));
        caller.ask_all(&requests).await;
        gone.insert(leaver);
        assert_eq!(tables::astray(&stage.pool).await, 0, "round {round}");
        let reply = caller.ask("user.list.v1", json!({ "per_page": 100 })).await;
        assert_eq!(reply.meta()["total"], 60 - gone.len());
        assert_eq!(reply.data().as_array().unwrap().len(), 60 - gone.len());
        // Until the folders have begun, now and then, so that they meet rounds of every age.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    folded(&stage).await;
}

#[tokio::test]
async fn what_is_written_past_the_workers_is_listed_and_folded_by_the_next_one_to_start() {
    let stage = Stage::new().await;
    let mut first = stage.worker().start().await;
    let caller = stage.service().await;
    let ada = caller.create("ada").await;
    caller.create("bob").await;
    folded(&stage).await;
    let held = tables::hold_folding(&stage.pool).await;
    let write = "insert into users (id, email, name, role, password_hash, version, created_at, updated_at)
        select gen_random_uuid(), 'many' || n || '@example.com', 'Many', 'user', '', 1, now(), now()
        from generate_series(1, 1000) n;
        delete from users where email = 'bob@example.com';";
    tables::by_hand(&stage.pool, write).await;
    let renamed = format!("update users set name = 'By Hand' where id = '{ada}'");
    tables::by_hand(&stage.pool, &renamed).await;
    let check = async || {
        let reply = caller.ask("user.list.v1", json!({ "search": "many", "per_page": 1 })).await;
        assert_eq!(reply.meta()["total"], 1000);
        assert_eq!(listed(&caller, json!({ "search": "hand" }), "email").await, ["ada@example.com"]);
        assert!(listed(&caller, json!({ "search": "bob" }), "email").await.is_empty());
    };
    check().await;
    first.kill();
    first.wait_exit(std::time::Duration::from_secs(60)).await;
    assert!(tables::unfolded(&stage.pool).await >= 1002);
    drop(held);
    let _second = stage.worker().start().await;
    folded(&stage).await;
    check().await;
}

#[tokio::test]
async fn the_directory_is_taken_back_without_a_trace_and_filled_when_it_comes_again() {
    let (old, stage) = (Stage::unmigrated().await, Stage::new().await);
    for migration in [
        include_str!("../migrations/0001_users.up.sql"),
        include_str!("../migrations/0002_messages.up.sql"),
        include_str!("../migrations/0003_events.up.sql"),
        include_str!("../migrations/0004_failed_commands.up.sql"),
    ] {
        tables::by_hand(&old.pool, migration).await;
    }
    let now = tables::shape(&stage.pool).await;
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
    let since = names.filter(|name| name.ends_with(".up.sql") && name.as_str() > "0005").count();
    let down = stage.cli(&["migrate", "down", &since.to_string()]);
    assert!(down.status.success(), "{down:?}");
    assert_eq!(tables::shape(&stage.pool).await, tables::shape(&old.pool).await);
    let write = "insert into users (id, email, name, role, password_hash, version, created_at, updated_at, deleted_at)
        select gen_random_uuid(), 'u' || n || '@example.com', 'Ü ' || n, 'user', '', 1, now(), now(),
            case when n > 7 then now() end
        from generate_series(1, 10) n";
    tables::by_hand(&stage.pool, write).await;
    let up = stage.cli(&["migrate", "up"]);
    assert!(up.status.success(), "{up:?}");
    assert_eq!(tables::shape(&stage.pool).await, now);
    assert_eq!((tables::unfolded(&stage.pool).await, tables::astray(&stage.pool).await), (0, 0));
    assert_eq!(tables::unclaimed(&stage.pool).await, 0);
    let (_worker, caller) = (stage.worker().start().await, stage.service().await);
    let reply = caller.ask("user.list.v1", json!({ "search": "ü 7" })).await;
    assert_eq!(reply.meta()["total"], 1);
}

/// Whoever is written often leaves many notes, and is folded in once.
#[tokio::test]
async fn many_changes_of_one_user_are_folded_in_soon() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    let notes = "insert into user_changes (user_ids)
        select array[id] from users, generate_series(1, 20000)";
    sqlx::raw_sql(notes).execute(&stage.pool).await.unwrap();
    caller.ask("user.update.v1", json!({ "id": id, "name": "Zoë" })).await.data();
    folded(&stage).await;
}
