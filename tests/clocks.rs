//! Workers whose clocks disagree by minutes, with each other, with Postgres and with the callers.

use serde_json::json;

use crate::support::random::Mix;
use crate::support::run::Run;
use crate::support::{PATIENCE, Stage, eventually};

const MIX: Mix = Mix { users: 6, commands: 300, wide: true };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_39_clocks_ten_minutes_apart_and_one_set_back_change_no_order() {
    let stage = Stage::new().await;
    let mut ahead = stage.worker().env("ROSTER_CLOCK", "300").start().await;
    let mut behind = stage.worker().env("ROSTER_CLOCK", "-300").start().await;
    let run = Run::start(&stage, MIX).await;
    run.reach(0.3).await;
    // Set back by ten minutes.
    ahead.set("ROSTER_CLOCK", "-300");
    ahead.restart().await;
    run.reach(0.6).await;
    behind.terminate();
    assert_eq!(behind.wait_exit(PATIENCE).await.code(), Some(0));
    run.finish(&stage, &mut ahead).await;
}

#[tokio::test]
async fn row_39_a_failed_command_waits_as_long_as_it_should_whatever_the_workers_clock_says() {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_CLOCK", "-300").env("ROSTER_RETRY_DELAYS", "2m").start().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    let poison = "create function poisoned() returns trigger language plpgsql as
            $$ begin raise exception 'poisoned' using errcode = 'XX000'; end $$;
        create trigger poisoned before update on users for each row execute function poisoned();";
    sqlx::raw_sql(poison).execute(&stage.pool).await.unwrap();
    caller.send(&caller.request("user.update.v1", json!({ "id": id, "name": "Poisoned" }))).await;
    let wait = "select extract(epoch from due_at - updated_at)::float8 from failed_commands";
    eventually("it is kept", async || {
        let wait: Option<f64> = sqlx::query_scalar(wait).fetch_optional(&stage.pool).await.unwrap();
        let wait = wait.ok_or("nothing is kept")?;
        if (100.0..140.0).contains(&wait) { Ok(()) } else { Err(format!("it waits for {wait} s")) }
    })
    .await;
    drop(worker);
}
