//! The queries on users: single ones, and lists by page and by cursor.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Caller, Reply, Stage, person};

#[tokio::test]
async fn a_user_is_found_by_id_and_by_email_in_any_case() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let created = caller.ask("user.create.v1", person("ada")).await;
    for body in [
        json!({ "id": created.id() }),
        json!({ "email": "ada@example.com" }),
        json!({ "email": "ADA@Example.com" }),
    ] {
        let reply = caller.ask("user.get.v1", body).await;
        assert_eq!(reply.data(), created.data());
    }
    for body in [json!({ "id": Uuid::now_v7() }), json!({ "email": "bob@example.com" })] {
        assert_eq!(caller.ask("user.get.v1", body).await.code(), "NOT_FOUND");
    }
    let both = json!({ "id": created.id(), "email": "ada@example.com" });
    for body in [json!({}), both, json!({ "id": "x" }), json!({ "email": "x" }), json!({ "x": 1 })] {
        let reply = caller.ask("user.get.v1", body.clone()).await;
        assert_eq!(reply.code(), "BAD_REQUEST", "{body}");
    }
}

/// Those that wait for a connection get the next that becomes free.
#[tokio::test]
async fn more_lists_at_once_than_there_are_connections_are_all_answered() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    caller.create_many("user", 3).await;
    let requests: Vec<_> = (0..60).map(|_| caller.request("user.list.v1", json!({}))).collect();
    for reply in caller.ask_all(&requests).await {
        assert!(reply.is_success(), "{}", reply.body);
    }
}

#[tokio::test]
async fn many_lookups_at_once_each_get_their_own_answer() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ids = caller.create_many("user", 8).await;
    let mut requests = Vec::new();
    for round in 0..25 {
        for (n, id) in ids.iter().enumerate() {
            let by_email = json!({ "email": format!("user{n}@example.com") });
            let body = match round % 2 {
                0 => json!({ "id": id }),
                _ => by_email,
            };
            requests.push(caller.request("user.get.v1", body));
        }
        requests.push(caller.request("user.get.v1", json!({ "id": Uuid::now_v7() })));
    }
    let replies = caller.ask_all(&requests).await;
    for (n, reply) in replies.iter().enumerate() {
        match ids.get(n % 9) {
            Some(id) => assert_eq!(reply.id(), *id),
            None => assert_eq!(reply.code(), "NOT_FOUND"),
        }
    }
}

#[tokio::test]
async fn a_query_needs_no_message_id() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let query = caller.request("user.get.v1", json!({ "id": Uuid::now_v7() }));
    assert_eq!(caller.ask_with(&query.no_id()).await.code(), "NOT_FOUND");
}

/// Twelve users: `a0` … `a3`, `b0` … `b3`, `c0` … `c3` at example.com, in that order of creation,
/// the last of each an admin; and a deleted one.
async fn cast(caller: &Caller) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for letter in ["a", "b", "c"] {
        for n in 0..4 {
            let mut body = person(&format!("{letter}{n}"));
            if n == 3 {
                body["role"] = "admin".into();
            }
            body["name"] = format!("{letter}{} of the {letter}s", 3 - n).into();
            ids.push(caller.ask("user.create.v1", body).await.id());
        }
    }
    let gone = caller.create("gone").await;
    caller.ask("user.delete.v1", json!({ "id": gone })).await.data();
    ids
}

fn emails(reply: &Reply) -> Vec<String> {
    let users = reply.data().as_array().unwrap().iter();
    users.map(|user| user["email"].as_str().unwrap().replace("@example.com", "")).collect()
}

#[tokio::test]
async fn a_list_is_the_newest_first_and_counts_all() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ids = cast(&caller).await;
    let reply = caller.ask("user.list.v1", json!({})).await;
    assert_eq!(emails(&reply), ["c3", "c2", "c1", "c0", "b3", "b2", "b1", "b0", "a3", "a2", "a1", "a0"]);
    let one = caller.ask("user.get.v1", json!({ "id": ids[0] })).await;
    assert_eq!(&reply.data()[11], one.data(), "a list shows the whole user");
    let meta = json!({ "page": 1, "per_page": 20, "total": 12, "next_cursor": null });
    assert_eq!(reply.meta(), &meta);
    let reply = caller.ask("user.list.v1", json!({ "page": 2, "per_page": 5 })).await;
    assert_eq!(emails(&reply), ["b2", "b1", "b0", "a3", "a2"]);
    assert_eq!(reply.meta()["page"], 2);
    assert_eq!(reply.meta()["per_page"], 5);
    assert_eq!(reply.meta()["total"], 12);
    assert!(reply.meta()["next_cursor"].is_string());
    let reply = caller.ask("user.list.v1", json!({ "page": 9, "per_page": 5 })).await;
    assert_eq!(emails(&reply), [""; 0]);
    assert_eq!(reply.meta()["total"], 12);
    assert_eq!(reply.meta()["next_cursor"], Value::Null);
    let reply = caller.ask("user.list.v1", json!({ "page": 1, "total": false })).await;
    assert!(reply.meta().get("total").is_none_or(Value::is_null));
}

#[tokio::test]
async fn a_list_is_sorted_filtered_and_searched_as_asked() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ids = cast(&caller).await;
    let renamed = json!({ "id": ids[5], "name": "100% \\ zoë_the_last" });
    caller.ask("user.update.v1", renamed).await.data();
    for (body, expected) in [
        (json!({ "sort": "email", "order": "asc", "per_page": 3 }), vec!["a0", "a1", "a2"]),
        (json!({ "sort": "email", "order": "desc", "per_page": 2 }), vec!["c3", "c2"]),
        (json!({ "sort": "name", "order": "asc", "role": "admin" }), vec!["a3", "b3", "c3"]),
        (json!({ "sort": "updated_at", "per_page": 1 }), vec!["b1"]),
        (json!({ "sort": "created_at", "order": "asc", "per_page": 1 }), vec!["a0"]),
        (json!({ "role": "admin" }), vec!["c3", "b3", "a3"]),
        (json!({ "search": "OF THE A", "order": "asc" }), vec!["a0", "a1", "a2", "a3"]),
        (json!({ "search": "b2@ex" }), vec!["b2"]),
        (json!({ "search": "00%" }), vec!["b1"]),
        (json!({ "search": "ë_t" }), vec!["b1"]),
        (json!({ "search": "% \\" }), vec!["b1"]),
        (json!({ "search": "a%0" }), vec![]),
        (json!({ "search": "___" }), vec![]),
        (json!({ "search": "gone" }), vec![]),
        (json!({ "search": " c3" }), vec![]),
        (json!({ "search": "the c", "role": "admin" }), vec!["c3"]),
    ] {
        let reply = caller.ask("user.list.v1", body.clone()).await;
        assert_eq!(emails(&reply), expected, "{body}");
    }
    let body = json!({ "search": "of the", "role": "user", "per_page": 2 });
    let reply = caller.ask("user.list.v1", body).await;
    assert_eq!(reply.meta()["total"], 8, "the total counts what the filter lets through");
}

#[tokio::test]
async fn a_cursor_walks_over_everything_once_while_users_come_and_go() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    cast(&caller).await;
    for (sort, order) in [("created_at", "desc"), ("email", "asc"), ("name", "desc")] {
        let first = json!({ "sort": sort, "order": order, "per_page": 5 });
        let mut reply = caller.ask("user.list.v1", first.clone()).await;
        let mut walked = emails(&reply);
        while let Some(cursor) = reply.meta()["next_cursor"].as_str() {
            // Comes in front of the walk, or behind it; shifts no page.
            let newcomer = format!("zz{}{sort}", walked.len()).replace('_', "");
            let id = caller.create(&newcomer).await;
            let mut next = first.clone();
            next["cursor"] = cursor.into();
            reply = caller.ask("user.list.v1", next).await;
            assert!(reply.meta().get("total").is_none_or(Value::is_null), "not with a cursor");
            walked.extend(emails(&reply));
            caller.ask("user.delete.v1", json!({ "id": id })).await.data();
        }
        walked.retain(|email| !email.starts_with("zz"));
        let once: BTreeSet<&String> = walked.iter().collect();
        assert_eq!((walked.len(), once.len()), (12, 12), "{sort} {order}: {walked:?}");
    }
    let first = caller.ask("user.list.v1", json!({ "per_page": 5 })).await;
    let cursor = first.meta()["next_cursor"].clone();
    let body = json!({ "per_page": 5, "cursor": cursor, "total": true });
    assert_eq!(caller.ask("user.list.v1", body).await.meta()["total"], 12);
}

#[tokio::test]
async fn a_list_that_cannot_be_is_refused_and_the_field_named() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    caller.create_many("user", 3).await;
    let first = caller.ask("user.list.v1", json!({ "per_page": 1 })).await;
    let cursor = first.meta()["next_cursor"].as_str().unwrap().to_owned();
    let mut forged = cursor.clone();
    forged.replace_range(2..3, if &cursor[2..3] == "A" { "B" } else { "A" });
    for (body, field) in [
        (json!({ "page": 0 }), "page"),
        (json!({ "page": -1 }), "page"),
        (json!({ "page": "one" }), "page"),
        (json!({ "per_page": 0 }), "per_page"),
        (json!({ "per_page": 101 }), "per_page"),
        (json!({ "sort": "password_hash" }), "sort"),
        (json!({ "order": "sideways" }), "order"),
        (json!({ "role": "root" }), "role"),
        (json!({ "search": "ab" }), "search"),
        (json!({ "search": "s".repeat(101) }), "search"),
        (json!({ "cursor": "garbage" }), "cursor"),
        (json!({ "cursor": "" }), "cursor"),
        (json!({ "cursor": forged, "per_page": 1 }), "cursor"),
        (json!({ "cursor": cursor, "sort": "email" }), "cursor"),
        (json!({ "cursor": cursor, "order": "asc" }), "cursor"),
        (json!({ "cursor": cursor, "role": "admin" }), "cursor"),
        (json!({ "cursor": cursor, "search": "user" }), "cursor"),
        (json!({ "limit": 3 }), "limit"),
    ] {
        let reply = caller.ask("user.list.v1", body.clone()).await;
        assert_eq!(reply.code(), "BAD_REQUEST", "{body}");
        let fields: Vec<String> = reply.reasons().into_iter().map(|pair| pair.0).collect();
        assert_eq!(fields, [field], "{body}");
    }
    let both = json!({ "cursor": cursor, "page": 2 });
    assert_eq!(caller.ask("user.list.v1", both).await.code(), "BAD_REQUEST");
}

/// RabbitMQ closes the connection over an answer to each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_direct_reply_queues_keep_nobody_else_from_an_answer() {
    let (stage, _worker) = Stage::with_worker().await;
    let stranger = stage.anonymous().await;
    let forging = tokio::spawn(async move {
        loop {
            let forged = format!("amq.rabbitmq.reply-to.g1h2{}.forged==", Uuid::new_v4().simple());
            let query = stranger.request("user.get.v1", json!({ "x": 1 })).reply_to(forged);
            drop(stranger.publish(&query).await.expect("a publish"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let caller = stage.service().await;
    for _ in 0..100 {
        let nobody = caller.ask("user.get.v1", json!({ "id": Uuid::now_v7() })).await;
        assert_eq!(nobody.code(), "NOT_FOUND");
    }
    forging.abort();
}
