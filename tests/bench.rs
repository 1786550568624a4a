//! `roster bench` in small: every mode ends well, says what it promises, and leaves nothing behind.

use std::process::{Command, Output};

use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use crate::support::{Stage, broker};

const SMALL: [&str; 6] = ["--messages", "300", "--users", "100", "--rounds", "1"];

fn bench(stage: &Stage, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_roster"))
        .arg("bench")
        .args(arguments)
        .args(SMALL)
        .env("DATABASE_URL", &stage.database_url)
        .env("AMQP_URL", broker::url())
        .env("ROSTER_NAMESPACE", &stage.namespace)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

async fn databases(stage: &Stage) -> Vec<String> {
    let rows = sqlx::query("select datname::text from pg_database where datname like 'roster\\_bench\\_%'");
    rows.fetch_all(&stage.pool).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_has_its_figures_and_ratios_as_json_and_leaves_nothing_behind() {
    let stage = Stage::unmigrated().await;
    let before = databases(&stage).await;
    let plots = std::env::temp_dir().join(format!("roster-plots-{}", Uuid::new_v4().simple()));
    let output = bench(&stage, &["--json", "--plots", plots.to_str().unwrap()]);
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
    let left: Vec<_> = databases(&stage).await.into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(left, ours(&stage, &left).await, "other benches may run, ours is over");
}

/// Databases that somebody else's bench made meanwhile are still in use.
async fn ours(stage: &Stage, names: &[String]) -> Vec<String> {
    let mut used = Vec::new();
    for name in names {
        let query = sqlx::query("select count(*) from pg_stat_activity where datname = $1").bind(name);
        if query.fetch_one(&stage.pool).await.unwrap().get::<i64, _>(0) > 0 {
            used.push(name.clone());
        }
    }
    used
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mode_can_be_measured_alone_and_is_shown_as_a_table() {
    let stage = Stage::unmigrated().await;
    let output = bench(&stage, &["pipe,batch"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("batch_to_pipe") && shown.contains("≥ 0.70"), "{shown}");
    assert!(!shown.contains("create_to_hash"), "{shown}");
}
