//! A large batch in which some commands are bad: the good ones do not notice.

use lapin::types::AMQPValue;
use rstest::rstest;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Request, Stage, tables};

#[rstest]
#[case::in_large_batches(256)]
#[case::one_by_one(1)]
#[tokio::test]
async fn of_five_hundred_commands_the_bad_ones_are_refused_and_the_rest_succeed(#[case] batch: usize) {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_BATCH", batch).start().await;
    let caller = stage.service().await;
    let ids = caller.create_many("user", 10).await;
    let mut requests: Vec<(Request, Result<(), &str>)> = Vec::new();
    for n in 0..500 {
        let mut body = json!({ "id": ids[n % 10], "name": format!("Name {n}") });
        let expected = match n % 25 {
            3 => spoil(&mut body, "name", json!("x"), "BAD_REQUEST too_short"),
            8 => spoil(&mut body, "id", json!(Uuid::now_v7()), "NOT_FOUND"),
            13 => spoil(&mut body, "expected_version", json!(9999), "CONFLICT version_mismatch"),
            18 => {
                let taken = format!("user{}@example.com", (n + 1) % 10);
                spoil(&mut body, "email", json!(taken), "CONFLICT email_taken")
            }
            _ => Ok(()),
        };
        requests.push((caller.request("user.update.v1", body), expected));
    }
    worker.freeze();
    let sent: Vec<Request> = requests.iter().map(|pair| pair.0.clone()).collect();
    for request in &sent {
        caller.publish(request).await.unwrap();
    }
    worker.thaw();
    let mut applied = 0;
    for (request, expected) in &requests {
        let reply = caller.reply(request).await;
        match expected {
            Ok(()) => {
                reply.data();
                applied += 1;
            }
            Err(refusal) => assert_eq!(reply.refusal(), *refusal),
        }
    }
    assert_eq!(applied, 420);
    let users = tables::users(&stage.pool).await;
    let versions: i64 = users.iter().map(|user| user.version).sum();
    assert_eq!(versions, 10 + 420, "each applied once");
    assert!(tables::failed(&stage.pool).await.is_empty());
}

fn spoil<'a>(body: &mut Value, field: &str, value: Value, refusal: &'a str) -> Result<(), &'a str> {
    body[field] = value;
    Err(refusal)
}

/// Postgres is given it in scalars in the one case and in arrays in the other.
#[tokio::test]
async fn a_command_alone_is_written_as_one_of_many_is() {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_LANES", 1).start().await;
    let caller = stage.service().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let updates: Vec<Request> = (caller.create_many("user", 50).await.into_iter())
        .map(|id| caller.request("user.update.v1", json!({ "id": id, "name": "Countess" })))
        .map(|update| update.correlation(Some("all of them")))
        .map(|update| {
            update.header("traceparent", text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
        })
        .map(|update| update.header("tracestate", text("vendor=1")))
        .collect();
    let (alone, together) = updates.split_at(1);
    caller.ask_with(&alone[0]).await.data();
    worker.freeze();
    for update in together {
        caller.publish(update).await.unwrap();
    }
    worker.thaw();
    for update in together {
        caller.reply(update).await.data();
    }
    let written = sqlx::query_scalar(
        "select jsonb_build_object('type', e.type, 'sequence', e.sequence, 'data', e.data, 'user', e.actor,
            'correlation', e.correlation_id, 'trace', substr(e.traceparent, 1, 36), 'state', e.tracestate,
            'stored', jsonb_build_array(u.name, u.role, u.version, u.deleted_at, u.email like 'user%@example.com',
                u.password_hash like '$argon2id$%', u.updated_at = e.occurred_at),
            'answered', jsonb_build_array(i.type, i.actor, i.issued_on >= current_date - 1, octet_length(i.fingerprint),
                i.answer::json->'data'->>'name', i.answer::json->'data'->>'id' = u.id::text))
        from events as e join users as u on u.id = e.subject join inbox as i on i.message_id = e.causation_id
        where e.sequence = 2 order by e.position",
    );
    let written: Vec<Value> = written.fetch_all(&stage.pool).await.unwrap();
    assert_eq!(written.len(), updates.len());
    for one in &written {
        assert_eq!(*one, written[0]);
    }
}
