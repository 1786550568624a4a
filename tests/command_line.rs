//! `roster send`, `query`, `watch` and `users` as scripts and people use them: output and exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Stage, broker};

const ADA: &str = r#"{"email":"ada@example.com","name":"Ada Lovelace","password":"correct horse battery"}"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Standard output, which must be one JSON object on one line and nothing else.
fn reply(output: &Output) -> Value {
    let out = text(&output.stdout);
    assert_eq!(out.lines().count(), 1, "{out}\n{}", text(&output.stderr));
    serde_json::from_str(&out).unwrap()
}

fn roster(stage: &Stage) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    command.env("AMQP_URL", broker::url()).env("ROSTER_NAMESPACE", &stage.namespace);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_and_query_print_the_reply_alone_and_end_as_it_says() {
    let (stage, _worker) = Stage::with_worker().await;
    let id = Uuid::now_v7().to_string();
    let created = stage.cli(&["send", "user.create.v1", ADA, "--message-id", &id]);
    assert_eq!(code(&created), 0, "{}", text(&created.stderr));
    let user = &reply(&created)["data"];
    assert_eq!(user["name"], "Ada Lovelace");
    let again = stage.cli(&["send", "user.create.v1", ADA, "--message-id", &id]);
    assert_eq!((code(&again), reply(&again)), (0, reply(&created)));

    let taken = stage.cli(&["send", "user.create.v1", ADA]);
    assert_eq!(code(&taken), 1);
    assert_eq!(reply(&taken)["error"]["details"][0]["reason"], "email_taken");

    let found = stage.cli(&["query", "user.get.v1", r#"{"email":"ada@example.com"}"#]);
    assert_eq!((code(&found), &reply(&found)["data"]), (0, user));
    let misplaced = stage.cli(&["send", "user.get.v1", r#"{"email":"ada@example.com"}"#]);
    assert_eq!(code(&misplaced), 1);
    assert!(text(&misplaced.stderr).contains("roster query"), "{}", text(&misplaced.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_and_silence_have_their_own_codes_and_say_what_to_do() {
    let stage = Stage::new().await;
    for usage in [
        &["send", "user.create.v1", "{oops"][..],
        &["send", "user.create.v1", "[]"],
        &["send", "user.create.v1"],
        &["send", "user.create.v1", "{}", "--message-id", "one"],
        &["send", "user.create.v1", "{}", "--message-id", "9b2b6a1e-2c1b-4c58-8d5a-2f3d1f3c7f11"],
        &["users", "list", "--page", "1", "--cursor", "x"],
    ] {
        let output = stage.cli(usage);
        assert_eq!(code(&output), 2, "{usage:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{usage:?}");
    }
    for silent in
        [&["query", "keys.get.v1"][..], &["send", "user.create.v1", ADA], &["watch"], &["users", "list"]]
    {
        let output = stage.cli(silent);
        let said = text(&output.stderr);
        assert_eq!(code(&output), 3, "{silent:?}: {said}");
        assert!(output.stdout.is_empty() && said.contains("roster serve"), "{silent:?}: {said}");
    }
    let output = roster(&stage)
        .args(["query", "keys.get.v1"])
        .env("AMQP_URL", format!("amqp://guest:hunter2@{}", broker::address(&broker::url())))
        .output()
        .unwrap();
    assert_eq!(code(&output), 3);
    assert!(!text(&output.stderr).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_can_be_piped_in() {
    let (stage, _worker) = Stage::with_worker().await;
    let file = std::env::temp_dir().join(format!("{}.json", stage.namespace));
    std::fs::write(&file, format!("{ADA}\n")).unwrap();
    let output = roster(&stage)
        .args(["send", "user.create.v1", "-"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    std::fs::remove_file(file).unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(reply(&output)["data"]["email"], "ada@example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_shown_as_tables_and_as_json() {
    let (stage, _worker) = Stage::with_worker().await;
    let service = stage.service().await;
    for name in ["Ada", "Bea", "Cleo"] {
        let email = format!("{}@example.com", name.to_lowercase());
        let body = json!({"email": email, "name": name, "password": "correct horse battery"});
        assert!(service.ask("user.create.v1", body).await.is_success());
    }
    let first = stage.cli(&["users", "list", "--sort", "name", "--order", "asc", "--per-page", "2"]);
    assert_eq!(code(&first), 0, "{}", text(&first.stderr));
    let table = text(&first.stdout);
    let rows: Vec<_> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[0].contains("EMAIL") && rows[1].contains("Ada") && rows[2].contains("Bea"), "{table}");
    let footer = text(&first.stderr);
    assert!(footer.starts_with("page 1: 2 of 3 users; next: --cursor "), "{footer}");
    let cursor = footer.trim().rsplit(' ').next().unwrap();
    let rest = stage.cli(&[
        "users",
        "list",
        "--sort",
        "name",
        "--order",
        "asc",
        "--per-page",
        "2",
        "--cursor",
        cursor,
        "--json",
    ]);
    let rest = reply(&rest);
    assert_eq!(rest["data"][0]["name"], "Cleo");
    assert_eq!(rest["meta"]["next_cursor"], Value::Null);

    let one = stage.cli(&["users", "get", "BEA@example.com"]);
    assert!(text(&one.stdout).contains("bea@example.com"), "{}", text(&one.stderr));
    let nobody = stage.cli(&["users", "get", "nobody@example.com"]);
    assert_eq!(code(&nobody), 1);
    assert!(nobody.stdout.is_empty() && text(&nobody.stderr).contains("NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_shows_events_as_they_happen() {
    let (stage, _worker) = Stage::with_worker().await;
    for json in [true, false] {
        let mut watch = roster(&stage);
        watch.args(["watch", "user.*.v1", "--count", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        if json {
            watch.arg("--json");
        }
        let mut watch = watch.spawn().unwrap();
        // It says so once it is subscribed.
        let mut said = String::new();
        BufReader::new(watch.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("watching user.*.v1"), "{said}");
        let body = ADA.replace("ada@", if json { "one@" } else { "two@" });
        assert_eq!(code(&stage.cli(&["send", "user.create.v1", &body])), 0);
        let output = watch.wait_with_output().unwrap();
        assert_eq!(code(&output), 0);
        let line = text(&output.stdout);
        assert_eq!(line.lines().count(), 1, "{line}");
        if json {
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["type"], "user.created.v1");
        } else {
            assert!(line.contains("user.created.v1") && line.contains(r#"name="Ada Lovelace""#), "{line}");
        }
    }
}
