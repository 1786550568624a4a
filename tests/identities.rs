//! What is unique of a user stays so whoever writes the table: workers, older ones among them, and operators.

use rstest::rstest;
use serde_json::json;
use sqlx::{AssertSqlSafe, raw_sql};
use uuid::Uuid;

use crate::support::{Stage, eventually, person, tables};

/// A user as SQL writes it, without what does not matter here.
fn insert(id: &str, email: &str, deleted_at: &str) -> String {
    format!(
        "insert into users (id, email, name, role, password_hash, version, created_at, updated_at, deleted_at)
        values ({id}, '{email}', 'By Hand', 'user', '', 1, now(), now(), {deleted_at})"
    )
}

#[rstest]
#[case::an_address("gen_random_uuid()", "ada@example.com")]
#[case::an_id("'{ada}'", "eve@example.com")]
#[case::an_id_of_one_who_is_gone("'{gone}'", "eve@example.com")]
#[tokio::test]
async fn nobody_is_added_with_what_is_taken(#[case] id: &str, #[case] email: &str) {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ada = caller.create("ada").await;
    let gone = caller.create("gone").await;
    caller.ask("user.delete.v1", json!({ "id": gone })).await.data();
    let id = id.replace("{ada}", &ada.to_string()).replace("{gone}", &gone.to_string());
    let error = raw_sql(AssertSqlSafe(insert(&id, email, "null"))).execute(&stage.pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23505"), "{error}");
    assert_eq!(tables::users(&stage.pool).await.len(), 2);
    assert_eq!(tables::unclaimed(&stage.pool).await, 0);
}

#[tokio::test]
async fn what_is_written_by_hand_counts_for_commands() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ada = caller.create("ada").await;
    let bob = caller.create("bob").await;
    // One who is deleted already has no address.
    tables::by_hand(&stage.pool, &insert("gen_random_uuid()", "ada@example.com", "now()")).await;
    tables::by_hand(&stage.pool, &insert("gen_random_uuid()", "eve@example.com", "null")).await;
    assert_eq!(caller.ask("user.create.v1", person("eve")).await.code(), "CONFLICT");
    let taken = format!("update users set email = 'ada@example.com' where id = '{bob}'");
    let error = raw_sql(AssertSqlSafe(taken)).execute(&stage.pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23505"), "{error}");
    tables::by_hand(&stage.pool, &format!("update users set deleted_at = now() where id = '{ada}'")).await;
    let second = caller.create("ada").await;
    assert_ne!(second, ada);
    tables::by_hand(&stage.pool, &format!("delete from users where id = '{bob}'")).await;
    let mut again = person("bob");
    again["id"] = json!(bob);
    let again: Uuid = caller.ask("user.create.v1", again).await.id();
    assert_eq!(again, bob);
    let reply = caller.ask("user.get.v1", json!({ "email": "eve@example.com" })).await;
    assert_eq!(reply.data()["name"], "By Hand");
    assert_eq!(tables::unclaimed(&stage.pool).await, 0);
}

/// Whoever has locked a user to write it comes first: neither waits for the other.
#[tokio::test]
async fn the_table_is_made_while_a_batch_of_an_older_worker_is_being_written() {
    let (stage, mut worker) = Stage::with_worker().await;
    let ada = stage.service().await.create("ada").await;
    worker.kill();
    let down = stage.cli(&["migrate", "down", "1"]);
    assert!(down.status.success(), "{down:?}");
    let mut batch = stage.pool.begin().await.unwrap();
    let lock = sqlx::query("select 1 from users where id = $1 for no key update").bind(ada);
    lock.execute(&mut *batch).await.unwrap();
    let up = std::process::Command::new(env!("CARGO_BIN_EXE_roster"))
        .args(["migrate", "up"])
        .env("DATABASE_URL", &stage.database_url)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the migration waits", async || match tables::waiting_for_users(&stage.pool).await {
        0 => Err("it does not".to_owned()),
        _ => Ok(()),
    })
    .await;
    let write = sqlx::query("update users set name = 'Countess', version = 2 where id = $1").bind(ada);
    write.execute(&mut *batch).await.unwrap();
    batch.commit().await.unwrap();
    let up = up.wait_with_output().unwrap();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    assert_eq!(tables::unclaimed(&stage.pool).await, 0);
}

#[tokio::test]
async fn users_who_are_swept_away_leave_no_claims() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    caller.create("ada").await;
    tables::by_hand(&stage.pool, "truncate users").await;
    assert_eq!(tables::unclaimed(&stage.pool).await, 0);
    caller.create("ada").await;
}
