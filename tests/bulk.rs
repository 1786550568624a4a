//! A large batch in which some commands are bad: the good ones do not notice.

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
