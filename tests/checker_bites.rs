//! Workers with deliberate bugs (`ROSTER_BUG`): the checker must catch each, and name the right invariant.

use std::time::Duration;

use rstest::rstest;
use sqlx::raw_sql;

use crate::failpoints::arm;
use crate::support::load::Load;
use crate::support::random::{Mix, Plan, plan, seed};
use crate::support::run::Run;
use crate::support::{PATIENCE, Stage, Worker, broker, tables};

const SMALL: Mix = Mix { users: 6, commands: 150, wide: false };

/// Patient enough for a sound worker, and soon done with a broken one.
fn load(stage: &Stage, plan: &Plan) -> Load {
    let mut load = Load::new(stage, plan.seed);
    (load.attempt, load.drain) = (Duration::from_secs(6), Duration::from_secs(8));
    load
}

async fn buggy(bug: &str) -> (Stage, Worker, Plan) {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_BUG", bug).start().await;
    let plan = plan(seed(), SMALL, Some(broker::user_in(&stage.amqp_url)));
    (stage, worker, plan)
}

#[rstest]
#[case::an_effect_without_its_answer("answer_not_stored", "I2")]
#[case::events_of_one_user_out_of_order("relay_out_of_order", "I4")]
#[tokio::test]
async fn a_bug_that_shows_by_itself_is_caught(#[case] bug: &str, #[case] invariant: &str) {
    let (stage, mut worker, plan) = buggy(bug).await;
    let load = load(&stage, &plan);
    let run = Run::with_load(&stage, plan, load).await;
    let report = run.report(&stage, &mut worker).await;
    assert!(report.broken().contains(&invariant), "{report}");
}

/// Whoever acknowledges too early loses what it had in hand when it dies.
#[rstest]
#[case::commands("ack_before_commit", "before_commit", "I1")]
#[case::replies("ack_before_reply", "before_reply", "I5")]
#[tokio::test]
async fn a_bug_that_shows_when_it_dies_is_caught(
    #[case] bug: &str,
    #[case] place: &str,
    #[case] invariant: &str,
) {
    let (stage, mut worker, mut plan) = buggy(bug).await;
    if invariant == "I1" {
        // With a reply to wait for, a caller would send it again.
        for step in &mut plan.steps {
            step.request = step.request.clone().no_reply();
        }
    }
    let load = load(&stage, &plan);
    let run = Run::with_load(&stage, plan, load).await;
    arm(&mut worker, place, 2).await;
    worker.wait_exit(PATIENCE).await;
    worker.unset("ROSTER_FAILPOINT");
    worker.restart().await;
    let report = run.report(&stage, &mut worker).await;
    assert!(report.broken().contains(&invariant), "{report}");
}

#[tokio::test]
async fn a_retry_that_forgets_who_asked_is_caught() {
    let (stage, mut worker, plan) = buggy("retry_forgets_actor").await;
    // A third of all changes fails, alone and together, until this is taken away.
    let poison = "create function poisoned() returns trigger language plpgsql as
            $$ begin raise exception 'poisoned' using errcode = 'XX000'; end $$;
        create trigger poisoned before update on users for each row
            when (new.name like '%7') execute function poisoned();";
    raw_sql(poison).execute(&stage.pool).await.unwrap();
    let load = load(&stage, &plan);
    let run = Run::with_load(&stage, plan, load).await;
    run.kept(&stage).await;
    raw_sql("drop trigger poisoned on users").execute(&stage.pool).await.unwrap();
    tables::hurry(&stage.pool).await;
    let report = run.report(&stage, &mut worker).await;
    assert!(report.broken().contains(&"I1"), "{report}");
}
