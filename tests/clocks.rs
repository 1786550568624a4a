//! Workers whose clocks disagree by minutes, with each other, with Postgres and with the callers.

use crate::support::random::Mix;
use crate::support::run::Run;
use crate::support::{PATIENCE, Stage};

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
