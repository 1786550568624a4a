//! `roster bench` in small: every mode ends well, says what it promises, and leaves nothing behind.

use std::process::{Command, Output, Stdio};

use rstest::rstest;
use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use crate::support::{Stage, broker, eventually};

const SMALL: [&str; 6] = ["--messages", "300", "--users", "100", "--rounds", "1"];

fn command(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    command
        .arg("bench")
        .args(arguments)
        .env("DATABASE_URL", &stage.database_url)
        .env("AMQP_URL", broker::url())
        .env("ROSTER_NAMESPACE", &stage.namespace);
    command
}

fn bench(stage: &Stage, arguments: &[&str]) -> Output {
    let output = command(stage, arguments).args(SMALL).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_has_its_figures_and_ratios_as_json_and_leaves_nothing_behind() {
    let stage = Stage::unmigrated().await;
    let id = Uuid::new_v4().simple().to_string();
    let plots = std::env::temp_dir().join(format!("roster-plots-{}", Uuid::new_v4().simple()));
    let output = bench(&stage, &["--json", "--id", &id, "--plots", plots.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for ratio in [
        "batch_to_pipe",
        "batch_to_single",
        "get_to_echo",
        "create_to_hash",
        "idle_p50_to_floor",
        "loaded_p99_to_p50",
    ] {
        assert!(report["ratios"][ratio].as_f64().unwrap() > 0.0, "{ratio}: {report}");
        assert!(report["targets"][ratio]["met"].is_boolean(), "{ratio}: {report}");
    }
    for figure in ["pipe", "single", "batch", "get", "echo", "create", "hash", "idle_p50", "loaded_p99"] {
        assert!(report["figures"][figure]["median"].as_f64().unwrap() > 0.0, "{figure}: {report}");
    }
    for plot in ["rates.svg", "latency.svg"] {
        assert!(std::fs::read_to_string(plots.join(plot)).unwrap().contains("</svg>"));
    }
    std::fs::remove_dir_all(plots).unwrap();
    assert_nothing_is_left(&stage, &id).await;
}

#[rstest]
#[case::by_ctrl_c("INT")]
#[case::by_its_supervisor("TERM")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_stopped_leaves_nothing_behind(#[case] signal: &str) {
    let stage = Stage::unmigrated().await;
    let id = Uuid::new_v4().simple().to_string();
    let mut command = command(&stage, &["batch", "--id", &id, "--users", "100", "--rounds", "1000"]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let connection = broker::connect("roster-tests bench").await.unwrap();
    // Its worker has come.
    let queue = stage.object(&format!("bench-{id}.commands"));
    eventually("it is at work", async || match broker::depth(&connection, &queue).await {
        Some((_, consumers)) if consumers > 0 => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await;
    let told = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(told.success());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 0) && told.contains("interrupted"), "{told}");
    assert_nothing_is_left(&stage, &id).await;
}

async fn assert_nothing_is_left(stage: &Stage, id: &str) {
    let query = sqlx::query("select count(*) from pg_database where datname = $1");
    let databases = query.bind(format!("roster_bench_{id}")).fetch_one(&stage.pool).await.unwrap();
    assert_eq!(databases.get::<i64, _>(0), 0);
    let connection = broker::connect("roster-tests bench").await.unwrap();
    for queue in ["commands", "queries", "dead", "events.subscriber"] {
        let queue = stage.object(&format!("bench-{id}.{queue}"));
        assert_eq!(broker::depth(&connection, &queue).await, None, "{queue}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mode_can_be_measured_alone_and_is_shown_as_a_table() {
    let stage = Stage::unmigrated().await;
    let output = bench(&stage, &["pipe,batch"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("batch_to_pipe") && shown.contains("≥ 0.70"), "{shown}");
    assert!(!shown.contains("create_to_hash"), "{shown}");
}
