//! What is unique of a user stays so whoever writes the table: workers, older ones among them, and operators.

use rstest::rstest;
use serde_json::json;
use sqlx::{AssertSqlSafe, raw_sql};
use uuid::Uuid;

use crate::support::{Stage, person, tables};

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
