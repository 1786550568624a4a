//! Events as subscribers see them: their shape, their order, and catching up.

use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::history::{Announced, History};
use crate::support::subscriber::Seen;
use crate::support::{Request, Stage, Subscriber, checker, eventually, person, tables};

#[tokio::test]
async fn an_event_is_a_cloud_event_that_names_its_cause() {
    let (stage, _worker) = Stage::with_worker().await;
    let (caller, subscriber) = (stage.service().await, stage.subscriber().await);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let create = caller
        .request("user.create.v1", person("ada"))
        .header("traceparent", lapin::types::AMQPValue::LongString(trace.into()));
    let reply = caller.ask_with(&create).await;
    let event = subscriber.wait_for(1).await.remove(0);
    let body = event.body.as_object().unwrap();
    let service = format!("service:{}", crate::support::broker::user());
    for (name, expected) in [
        ("specversion", json!("1.0")),
        ("source", json!(format!("/{}", stage.namespace))),
        ("type", json!("user.created.v1")),
        ("subject", json!(reply.id())),
        ("datacontenttype", json!("application/json")),
        ("dataschema", json!("urn:roster:schema:events/user.created.v1.json")),
        ("sequence", json!("0000000000000000001")),
        ("partitionkey", json!(reply.id())),
        ("causationid", json!(create.message_id)),
        ("correlationid", json!(create.correlation_id)),
        ("actor", json!(service)),
        ("data", json!({ "email": "ada@example.com", "name": "Ada", "role": "user" })),
    ] {
        assert_eq!(body.get(name), Some(&expected), "{name} in {}", event.body);
    }
    let known = ["id", "time", "traceparent"];
    assert_eq!(body.len(), 12 + known.len(), "{body:?}");
    event.id.parse::<Uuid>().unwrap();
    assert_eq!(body["time"], reply.data()["created_at"]);
    let same_trace = |text: &str| text.starts_with("00-0af7651916cd43dd8448eb211c80319c-");
    assert!(same_trace(body["traceparent"].as_str().unwrap()));
    assert!(same_trace(reply.traceparent.as_deref().unwrap()));
    assert_eq!(event.routing_key, "user.created.v1");
    let properties = &event.properties;
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    assert_eq!(text(properties.message_id()), Some(event.id));
    assert_eq!(text(properties.kind()).as_deref(), Some("user.created.v1"));
    let content_type = text(properties.content_type());
    assert_eq!(content_type.as_deref(), Some("application/cloudevents+json"));
    assert_eq!(*properties.delivery_mode(), Some(2));
    let headers = properties.headers().clone().unwrap_or_default();
    assert!(headers.contains_key("traceparent"));
}

#[tokio::test]
async fn each_command_publishes_what_the_contract_says() {
    let (stage, _worker) = Stage::with_worker().await;
    let (caller, subscriber) = (stage.service().await, stage.subscriber().await);
    let id = caller.create("ada").await;
    for (kind, mut body) in [
        ("user.update.v1", json!({ "name": "Ada L", "email": "AL@example.com" })),
        ("user.update.v1", json!({ "name": "Ada L" })),
        ("user.update.v1", json!({ "email": "ada@example.com" })),
        ("user.change_role.v1", json!({ "role": "admin" })),
        ("user.change_password.v1", json!({ "new_password": "a new secret" })),
        ("user.delete.v1", json!({})),
    ] {
        body["id"] = json!(id);
        caller.ask(kind, body).await.data();
    }
    let seen = subscriber.wait_for(7).await;
    let told: Vec<(i64, &str, Value)> =
        seen.iter().map(|event| (event.sequence, event.kind.as_str(), event.body["data"].clone())).collect();
    let created = json!({ "email": "ada@example.com", "name": "Ada", "role": "user" });
    let changed = json!({ "role": "admin", "previous_role": "user" });
    assert_eq!(
        told,
        vec![
            (1, "user.created.v1", created),
            (2, "user.renamed.v1", json!({ "name": "Ada L" })),
            (3, "user.email_changed.v1", json!({ "email": "al@example.com" })),
            (4, "user.email_changed.v1", json!({ "email": "ada@example.com" })),
            (5, "user.role_changed.v1", changed),
            (6, "user.password_changed.v1", json!({})),
            (7, "user.deleted.v1", json!({})),
        ]
    );
}

#[tokio::test]
async fn what_is_refused_publishes_nothing() {
    let (stage, _worker) = Stage::with_worker().await;
    let (caller, subscriber) = (stage.service().await, stage.subscriber().await);
    let id = caller.create("ada").await;
    for body in [
        json!({ "id": id, "name": "x" }),
        json!({ "id": id, "name": "Countess", "expected_version": 9 }),
        json!({ "id": Uuid::now_v7(), "name": "Nobody" }),
        json!({ "id": id, "name": "Ada" }),
    ] {
        caller.ask("user.update.v1", body).await;
    }
    caller.ask("user.update.v1", json!({ "id": id, "name": "Last" })).await;
    let seen = subscriber.wait_for_sequence(&id.to_string(), 2).await;
    assert_eq!(seen.len(), 2);
    assert_eq!(tables::events(&stage.pool).await.len(), 2);
}

async fn judge_order(stage: &Stage, subscriber: &Subscriber, count: usize) {
    let announced = |event: Seen| Announced {
        data: event.body["data"].clone(),
        subject: event.subject,
        sequence: event.sequence,
        id: event.id,
        kind: event.kind,
    };
    let history = History {
        announced: subscriber.wait_for(count).await.into_iter().map(announced).collect(),
        events: tables::events(&stage.pool).await,
        ..History::default()
    };
    let report = checker::judge(&history);
    let broken = report.broken();
    assert!(!broken.contains(&"I3") && !broken.contains(&"I4"), "{report}");
    assert_eq!(history.events.len(), count);
}

#[rstest]
#[case::by_one_worker(1)]
#[case::by_two_workers(2)]
#[tokio::test]
async fn many_updates_of_many_users_are_published_in_order(#[case] workers: usize) {
    let stage = Stage::new().await;
    let mut all = Vec::new();
    for _ in 0..workers {
        all.push(stage.worker().start().await);
    }
    let (caller, subscriber) = (stage.service().await, stage.subscriber().await);
    let ids = caller.create_many("user", 15).await;
    let mut requests: Vec<Request> = Vec::new();
    for round in 0..20 {
        for id in &ids {
            let body = json!({ "id": id, "name": format!("Name {round}") });
            requests.push(caller.request("user.update.v1", body));
        }
    }
    for reply in caller.ask_all(&requests).await {
        reply.data();
    }
    judge_order(&stage, &subscriber, 15 * 21).await;
}

#[tokio::test]
async fn a_batch_whose_commit_takes_long_keeps_its_place() {
    let (stage, _worker) = Stage::with_worker().await;
    let (caller, subscriber) = (stage.service().await, stage.subscriber().await);
    let ids = caller.create_many("user", 8).await;
    let (held, others) = ids.split_first().unwrap();
    subscriber.wait_for(8).await;
    let gate = tables::hold_commit(&stage.pool, *held, 2).await;
    let rename = |id: &Uuid, name: &str| caller.request("user.update.v1", json!({ "id": id, "name": name }));
    caller.send(&rename(held, "First")).await;
    eventually("its commit is held up", async || match tables::waiting_for_locks(&stage.pool).await {
        1 => Ok(()),
        waiting => Err(format!("{waiting} wait")),
    })
    .await;
    for id in others {
        caller.send(&rename(id, "Meanwhile")).await;
    }
    caller.send(&rename(held, "Second")).await;
    // Long enough for a relay to pass over it that passes over what it has not seen for some time.
    let mut rounds = Vec::new();
    eventually("the relay has gone on without it", async || {
        let asked = tables::relay_asked(&stage.pool).await;
        let next = |last: &DateTime<Utc>| asked.filter(|asked| *asked - last > TimeDelta::milliseconds(500));
        rounds.extend(rounds.last().map_or(asked, next));
        let more = subscriber.seen().len() > 8;
        if rounds.len() > 4 && more {
            Ok(())
        } else {
            Err(format!("{} rounds, others: {more}", rounds.len()))
        }
    })
    .await;
    assert_eq!(tables::waiting_for_locks(&stage.pool).await, 1, "it is held up still");
    drop(gate);
    judge_order(&stage, &subscriber, 8 + 7 + 2).await;
}

#[tokio::test]
async fn another_worker_publishes_when_the_one_that_did_is_killed() {
    let stage = Stage::new().await;
    let (mut first, mut second) = (stage.worker().start().await, stage.worker().start().await);
    let (caller, subscriber) = (stage.service().await, stage.subscriber().await);
    let id = caller.create("ada").await;
    subscriber.wait_for(1).await;
    first.kill();
    let body = json!({ "id": id, "name": "Countess" });
    caller.ask("user.update.v1", body).await.data();
    subscriber.wait_for(2).await;
    first.restart().await;
    second.kill();
    let body = json!({ "id": id, "name": "Ada again" });
    caller.ask("user.update.v1", body).await.data();
    judge_order(&stage, &subscriber, 3).await;
}

#[tokio::test]
async fn a_subscriber_that_missed_events_catches_up_by_sequence() {
    let (stage, _worker) = Stage::with_worker().await;
    let (caller, subscriber) = (stage.service().await, stage.subscriber().await);
    let id = caller.create("ada").await;
    for n in 2..=8 {
        let body = json!({ "id": id, "name": format!("Ada {n}") });
        caller.ask("user.update.v1", body).await.data();
    }
    let published = subscriber.wait_for(8).await;
    let mut caught = Vec::new();
    let mut after = 0;
    loop {
        let body = json!({ "subject": id, "after_sequence": after, "limit": 3 });
        let reply = caller.ask("event.list.v1", body).await;
        let events = reply.data().as_array().unwrap().clone();
        assert_eq!(reply.meta()["first_sequence"], 1);
        after += i64::try_from(events.len()).unwrap();
        caught.extend(events);
        assert_eq!(reply.meta()["has_more"], caught.len() < 8, "after {after}");
        if reply.meta()["has_more"] != true {
            break;
        }
    }
    let published: Vec<Value> = published.into_iter().map(|event| event.body).collect();
    assert_eq!(caught, published, "the very events that were published");
    let body = json!({ "subject": id, "after_sequence": 8 });
    let reply = caller.ask("event.list.v1", body).await;
    assert_eq!(reply.data(), &json!([]));
    for (body, field) in [
        (json!({}), "subject"),
        (json!({ "subject": "x" }), "subject"),
        (json!({ "subject": id, "limit": 501 }), "limit"),
        (json!({ "subject": id, "limit": 0 }), "limit"),
        (json!({ "subject": id, "after_sequence": -1 }), "after_sequence"),
    ] {
        let reply = caller.ask("event.list.v1", body).await;
        assert_eq!(reply.code(), "BAD_REQUEST");
        assert!(reply.reasons().iter().all(|pair| pair.0 == field), "{}", reply.body);
    }
}
