//! What a database may do to single statements while its server is well: errors that pass, locks held
//! elsewhere, transactions left open, partitions missing, addresses swapped.

use std::time::Duration;

use rstest::rstest;
use serde_json::json;
use sqlx::{AssertSqlSafe, raw_sql};
use uuid::Uuid;

use crate::support::random::Mix;
use crate::support::run::{MIX, Run};
use crate::support::{PATIENCE, Stage, Worker, broker, eventually, tables};

/// Makes the next `times` changes of a user fail with an SQLSTATE.
async fn fail_with(stage: &Stage, code: &str, times: u32) {
    // A sequence counts on although the transaction is rolled back.
    let statements = format!(
        "create sequence failures;
         create function failing() returns trigger language plpgsql as $$ begin
            if nextval('failures') <= {times} then raise exception 'failing' using errcode = '{code}'; end if;
            return new;
         end $$;
         create trigger failing before update on users for each row execute function failing();"
    );
    raw_sql(AssertSqlSafe(statements)).execute(&stage.pool).await.unwrap();
}

#[rstest]
#[case::row_25_serialization_failure("40001", 2)]
#[case::row_25_deadlock("40P01", 2)]
#[case::row_25_lock_wait("55P03", 2)]
#[case::row_25_statement_timeout("57014", 2)]
#[case::row_25_again_and_again("40001", 12)]
#[case::row_26_backend_terminated("57P01", 2)]
#[case::row_27_disk_full("53100", 4)]
#[tokio::test]
async fn an_error_that_passes_is_retried_and_buries_nothing(#[case] code: &str, #[case] times: u32) {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "300ms,300ms,300ms,300ms").start().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    fail_with(&stage, code, times).await;
    let reply = caller.ask("user.update.v1", json!({ "id": id, "name": "Countess" })).await;
    assert_eq!(reply.version(), 2);
    eventually("nothing is kept", async || match tables::failed(&stage.pool).await {
        rows if rows.is_empty() => Ok(()),
        rows => Err(format!("{rows:?}")),
    })
    .await;
    assert_eq!(tables::events(&stage.pool).await.len(), 2);
}

#[tokio::test]
async fn row_27_a_disk_that_stays_full_piles_nothing_up_in_the_worker() {
    const PREFETCH: u32 = 20;
    let stage = Stage::new().await;
    let mut worker = stage.worker().env("ROSTER_PREFETCH", PREFETCH).start().await;
    let caller = stage.service().await;
    let ids = caller.create_many("user", 10).await;
    fail_with(&stage, "53100", 1_000_000).await;
    let rename = |n: usize| json!({ "id": ids[n % ids.len()], "name": format!("Name {n}") });
    let renames: Vec<_> = (0..300).map(|n| caller.request("user.update.v1", rename(n))).collect();
    for rename in &renames {
        caller.send(rename).await;
    }
    // Postgres still answers whoever asks how it is.
    eventually("it was thought well and tried again, and again", async || {
        match worker.log().matches("\"taking commands\"").count() {
            times if times > 5 => Ok(()),
            times => Err(times.to_string()),
        }
    })
    .await;
    let ready = broker::depth(&caller.connection, &stage.object("commands")).await.unwrap().0;
    // What a consumer may bring, and half of that from the one before.
    assert!(ready >= 300 - PREFETCH * 3 / 2, "only {ready} of 300 are left to the broker");
    assert!(worker.is_running());
    raw_sql("drop trigger failing on users").execute(&stage.pool).await.unwrap();
    for rename in &renames {
        assert!(caller.reply(rename).await.is_success());
    }
    assert!(tables::failed(&stage.pool).await.is_empty());
}

#[tokio::test]
async fn row_25_a_lock_held_elsewhere_is_waited_for() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let (ada, bob) = (caller.create("ada").await, caller.create("bob").await);
    let mut holder = stage.pool.begin().await.unwrap();
    sqlx::query("select 1 from users where id = $1 for update")
        .bind(ada)
        .execute(&mut *holder)
        .await
        .unwrap();
    let stuck = caller.request("user.update.v1", json!({ "id": ada, "name": "Countess" }));
    caller.send(&stuck).await;
    // Longer than lock_timeout; others go on, at the latest once the stuck one is kept apart.
    let other = caller.ask("user.update.v1", json!({ "id": bob, "name": "Robert" })).await;
    assert_eq!(other.version(), 2);
    tokio::time::sleep(Duration::from_secs(4)).await;
    holder.rollback().await.unwrap();
    tables::hurry(&stage.pool).await;
    assert_eq!(caller.reply(&stuck).await.version(), 2);
}

#[tokio::test]
async fn row_48_a_transaction_left_open_elsewhere_holds_nothing_up_and_shows() {
    let (stage, mut worker) = Stage::with_worker().await;
    let mut open = stage.pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id(), count(*) from users").execute(&mut *open).await.unwrap();
    let run = Run::start(&stage, MIX).await;
    run.reach(1.0).await;
    eventually("the metric shows its age", async || {
        match worker.metric("roster_oldest_transaction_seconds", &[]).await {
            age if age > 1.0 => Ok(()),
            age => Err(format!("{age} s")),
        }
    })
    .await;
    eventually("the outbox is empty", async || match tables::outbox(&stage.pool).await {
        0 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    open.rollback().await.unwrap();
    run.finish(&stage, &mut worker).await;
}

#[tokio::test]
async fn row_49_partitions_that_are_missing_are_made_and_nothing_is_refused() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    caller.create("early").await;
    let statements = "do $$ declare part regclass; begin
        for part in select inhrelid::regclass from pg_inherits
            where inhparent in ('inbox'::regclass, 'events'::regclass)
        loop execute 'drop table ' || part; end loop;
    end $$";
    raw_sql(statements).execute(&stage.pool).await.unwrap();
    let ids = caller.create_many("late", 20).await;
    assert_eq!(ids.len(), 20);
    assert_eq!(tables::inbox(&stage.pool).await.len(), 20);
    assert_eq!(tables::events(&stage.pool).await.len(), 20);
    assert!(tables::failed(&stage.pool).await.is_empty());
}

/// One lane, so that what is sent while it stands still runs in one batch.
async fn one_lane() -> (Stage, Worker) {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_LANES", 1).start().await;
    (stage, worker)
}

#[rstest]
#[case::row_52_a_swap_is_refused_twice("bob@example.com", "ada@example.com", [false, false])]
#[case::row_52_a_chain_is_applied("new@example.com", "ada@example.com", [true, true])]
#[case::row_52_the_other_way_round("bob@example.com", "new@example.com", [false, true])]
#[tokio::test]
async fn addresses_change_hands_in_one_batch_as_they_would_one_by_one(
    #[case] for_ada: &str,
    #[case] for_bob: &str,
    #[case] expected: [bool; 2],
) {
    let (stage, worker) = one_lane().await;
    let caller = stage.service().await;
    let (ada, bob) = (caller.create("ada").await, caller.create("bob").await);
    let change =
        |id: Uuid, email: &str| caller.request("user.update.v1", json!({ "id": id, "email": email }));
    let changes = [change(ada, for_ada), change(bob, for_bob)];
    worker.freeze();
    for change in &changes {
        caller.send(change).await;
    }
    worker.thaw();
    for (change, expected) in changes.iter().zip(expected) {
        let reply = caller.reply(change).await;
        assert_eq!(reply.is_success(), expected, "{}", reply.body);
        if !expected {
            assert_eq!(reply.refusal(), "CONFLICT email_taken");
        }
    }
    assert!(tables::failed(&stage.pool).await.is_empty());
}

async fn leads(worker: &mut Worker) -> bool {
    worker.metric("roster_relay_leader", &[]).await > 0.5
}

#[tokio::test]
async fn rows_10_and_38_a_leader_that_freezes_is_replaced_and_wakes_up_harmless() {
    let stage = Stage::new().await;
    let (mut first, mut second) = (stage.worker().start().await, stage.worker().start().await);
    if leads(&mut second).await {
        std::mem::swap(&mut first, &mut second);
    }
    assert!(leads(&mut first).await);
    // It freezes in mid-load, with commands in hand and events on their way.
    let run = Run::start(&stage, Mix { users: 8, commands: 400, wide: false }).await;
    run.reach(0.2).await;
    first.freeze();
    eventually("the other leads", async || match leads(&mut second).await {
        true => Ok(()),
        false => Err("it does not".to_owned()),
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    first.thaw();
    eventually("the first has noticed", async || match leads(&mut first).await {
        false => Ok(()),
        true => Err("it thinks it leads".to_owned()),
    })
    .await;
    assert!(leads(&mut second).await);
    first.terminate();
    assert_eq!(first.wait_exit(PATIENCE).await.code(), Some(0));
    run.finish(&stage, &mut second).await;
}
