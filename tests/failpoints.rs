//! The real binary killed at every place where it matters, in mid-load (FAULTS.md rows 1 to 8, 51).

use std::collections::BTreeSet;
use std::time::Duration;

use rstest::rstest;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::random::{Mix, Plan, plan, seed};
use crate::support::run::Run;
use crate::support::{Caller, PATIENCE, Request, Stage, Worker, broker, eventually, tables};

const SMALL: Mix = Mix { users: 6, commands: 150, wide: false };
const FAILPOINT: &str = "ROSTER_FAILPOINT";

/// Starts the worker anew, to die the `count`-th time it comes by `name`.
pub async fn arm(worker: &mut Worker, name: &str, count: u32) {
    worker.set(FAILPOINT, format!("{name}:{count}"));
    worker.respawn();
}

/// Waits for its death, and starts it again as one that lives.
async fn bury_and_restart(worker: &mut Worker) {
    let status = worker.wait_exit(PATIENCE).await;
    assert_eq!(status.code(), None, "it was killed");
    worker.unset(FAILPOINT);
    worker.restart().await;
}

/// Nothing else in this load is prepared.
fn with_a_late_creation() -> Plan {
    let mut plan = plan(seed(), SMALL, Some(broker::user()));
    let late = plan.creations.pop().expect("a creation");
    plan.steps.insert(SMALL.commands / 2, late);
    plan
}

#[rstest]
#[case::row_1_delivered("after_delivery", 20)]
#[case::row_1_prepared("after_prepare", 1)]
#[case::row_2("in_transaction", 3)]
#[case::row_3("before_commit", 3)]
#[case::row_4_committed("after_commit", 2)]
#[case::row_4_before_the_reply("before_reply", 3)]
#[case::row_5("after_reply", 2)]
#[case::row_5_acknowledged("after_ack", 2)]
#[case::row_6("relay_after_publish", 12)]
#[case::row_7("relay_after_confirm", 12)]
#[case::row_8("relay_after_delete", 2)]
#[tokio::test]
async fn killed_there_it_loses_and_repeats_nothing(#[case] name: &str, #[case] count: u32) {
    let (stage, mut worker) = Stage::with_worker().await;
    let run = Run::with_plan(&stage, with_a_late_creation()).await;
    run.reach(0.1).await;
    arm(&mut worker, name, count).await;
    bury_and_restart(&mut worker).await;
    run.finish(&stage, &mut worker).await;
}

/// What has panicked neither answers nor acknowledges, and the worker must not seem to go on without it.
#[rstest]
#[case::while_a_password_was_hashed("after_prepare", 1)]
#[case::in_a_lane("in_transaction", 3)]
#[case::while_replies_left("before_reply", 3)]
#[case::in_the_relay("relay_after_publish", 12)]
#[tokio::test]
async fn a_part_that_panics_takes_the_process_along(#[case] name: &str, #[case] count: u32) {
    let (stage, mut worker) = Stage::with_worker().await;
    let run = Run::with_plan(&stage, with_a_late_creation()).await;
    run.reach(0.1).await;
    worker.set("ROSTER_BY_PANIC", 1);
    arm(&mut worker, name, count).await;
    assert_eq!(worker.wait_exit(PATIENCE).await.code(), Some(70));
    worker.unset(FAILPOINT);
    worker.restart().await;
    run.finish(&stage, &mut worker).await;
}

#[test]
fn every_failpoint_has_its_test() {
    let source = include_str!("failpoints.rs");
    let tested: BTreeSet<&str> =
        roster::failpoint::NAMES.into_iter().filter(|name| source.contains(&format!("\"{name}\""))).collect();
    assert_eq!(tested, roster::failpoint::NAMES.into_iter().collect());
}

/// Makes every change to the user `name` fail for good, until [`cure`].
async fn poison(pool: &PgPool, name: &str) {
    let statements = format!(
        "create function poisoned() returns trigger language plpgsql as
            $$ begin raise exception 'poisoned' using errcode = 'XX000'; end $$;
         create trigger poisoned before update on users for each row
            when (new.name = '{name}') execute function poisoned();"
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(pool).await.unwrap();
}

async fn cure(pool: &PgPool) {
    sqlx::raw_sql("drop trigger poisoned on users").execute(pool).await.unwrap();
}

/// A worker that gives up after three tries, and a command that fails each time.
async fn with_a_failing_command() -> (Stage, Worker, Caller, Request) {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_RETRY_DELAYS", "100ms,100ms").start().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    poison(&stage.pool, "Poisoned").await;
    let update = caller.request("user.update.v1", json!({ "id": id, "name": "Poisoned" }));
    (stage, worker, caller, update)
}

#[rstest]
#[case::at_the_first_failure("after_keeping", 1)]
#[case::at_the_second("after_keeping", 2)]
#[case::at_the_last("after_keeping", 3)]
#[case::while_it_runs("in_transaction", 2)]
#[tokio::test]
async fn row_51_a_failing_command_is_tried_as_often_as_promised(#[case] name: &str, #[case] count: u32) {
    let (stage, mut worker, caller, update) = with_a_failing_command().await;
    arm(&mut worker, name, count).await;
    caller.send(&update).await;
    bury_and_restart(&mut worker).await;
    hurry_until_dead(&stage).await;
    let failed = tables::failed(&stage.pool).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((failed[0].state.as_str(), failed[0].attempts), ("dead", 3));
    // Its last owner may have died before it told the caller.
    tables::hurry(&stage.pool).await;
    let reply = caller.reply(&update).await;
    assert_eq!(reply.code(), "INTERNAL_ERROR");
    assert_eq!(tables::users(&stage.pool).await[0].version, 1);
}

/// A claim that a dead worker has left lasts a minute; nobody waits for it here.
async fn hurry_until_dead(stage: &Stage) {
    eventually("it is a dead letter", async || {
        let failed = tables::failed(&stage.pool).await;
        match failed.iter().all(|row| row.state == "dead") && !failed.is_empty() {
            true => Ok(()),
            false => {
                tables::release_claims(&stage.pool).await;
                Err(format!("{failed:?}"))
            }
        }
    })
    .await;
}

#[rstest]
#[case::before_its_commit("before_commit")]
#[case::after_its_commit("after_commit")]
#[case::before_its_reply("before_reply")]
#[tokio::test]
async fn row_51_killed_while_a_kept_command_succeeds_it_has_one_effect(#[case] name: &str) {
    let (stage, mut worker, caller, update) = with_a_failing_command().await;
    worker.set("ROSTER_RETRY_DELAYS", "10m");
    worker.restart().await;
    caller.send(&update).await;
    eventually("it is kept", async || match tables::failed(&stage.pool).await.len() {
        1 => Ok(()),
        count => Err(format!("{count} rows")),
    })
    .await;
    cure(&stage.pool).await;
    arm(&mut worker, name, 1).await;
    tables::hurry(&stage.pool).await;
    bury_and_restart(&mut worker).await;
    let reply = async {
        loop {
            tables::release_claims(&stage.pool).await;
            tables::hurry(&stage.pool).await;
            let reply = caller.reply_within(&update.correlation_key(), Duration::from_secs(2)).await;
            if let Some(reply) = reply {
                return reply;
            }
        }
    };
    let reply = tokio::time::timeout(PATIENCE, reply).await.expect("an answer");
    assert_eq!(reply.version(), 2);
    eventually("nothing is kept any more", async || match tables::failed(&stage.pool).await.len() {
        0 => Ok(()),
        count => Err(format!("{count} rows")),
    })
    .await;
    let again = caller.ask_with(&update.again()).await;
    assert_eq!((&again.body, again.replayed), (&reply.body, Some(true)));
    assert_eq!(tables::events(&stage.pool).await.len(), 2);
}
