//! `roster dead` as operators use it: what it shows, what it hides, what it drops.

use serde_json::{Value, json};

use super::{dead, forbid, list, nothing_kept, roster, roster_says};
use crate::support::{Stage, broker, eventually, person, tables, worker};

/// Three dead letters: one that failed, one refused, one malformed; gives the first one's message id.
async fn letters(stage: &Stage) -> String {
    let caller = stage.service().await;
    let id = caller.create("bob").await;
    forbid(stage, "Ada").await;
    let failing = caller.request("user.create.v1", person("ada"));
    caller.ask_with(&failing).await.code();
    let unknown = json!({ "id": uuid::Uuid::now_v7(), "name": "Nobody" });
    let refused = caller.request("user.update.v1", unknown).no_reply();
    let pass = json!({ "id": id, "new_password": "short" });
    let malformed = caller.request("user.change_password.v1", pass).no_id().no_reply();
    caller.send(&refused).await;
    caller.send(&malformed).await;
    dead(stage, 3).await;
    failing.message_id.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_can_be_narrowed_and_show_no_secrets() {
    let stage = Stage::new().await;
    let mut worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await;
    let id = letters(&stage).await;
    eventually("the metrics count them", async || {
        match worker.metric("roster_failed_commands", &["state=\"dead\""]).await {
            3.0 => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
    let listed = |arguments: &[&str]| {
        let letters = list(&stage, arguments).into_iter();
        let mut reasons: Vec<Value> = letters.map(|letter| letter["reason"].clone()).collect();
        reasons.sort_unstable_by_key(Value::to_string);
        reasons
    };
    assert_eq!(listed(&[]), ["failed", "malformed", "refused"]);
    assert_eq!(listed(&["--limit", "1"]), ["failed"], "the oldest");
    assert_eq!(listed(&["--reason", "refused"]), ["refused"]);
    assert_eq!(listed(&["--type", "user.change_password.v1"]), ["malformed"]);
    assert_eq!(listed(&["--user", "Bob@example.com"]), ["malformed"]);
    assert_eq!(listed(&["--user", "ada@example.com"]), ["failed"]);
    assert_eq!(listed(&["--id", &id]), ["failed"]);
    assert_eq!(listed(&["--state", "waiting"]), Vec::<Value>::new());
    assert_eq!(roster_says(&stage, &["list", "--reason", "bored"]).0, 2);

    let shown = roster(&stage, &["show", &id]);
    let parts =
        ["user.create.v1", "failed", "42000", "ada@example.com", "application/json", "amq.rabbitmq.reply-to"];
    for part in parts.into_iter().chain([&*format!("service:{}", broker::user())]) {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let row = list(&stage, &["--reason", "malformed"])[0]["id"].as_str().unwrap().to_owned();
    let row = format!("row:{row}");
    assert!(roster(&stage, &["list"]).replace('\n', "").contains("row:"));
    assert!(roster(&stage, &["show", &row]).contains("malformed"));
    assert_eq!(roster_says(&stage, &["show", &uuid::Uuid::now_v7().to_string()]).0, 1);

    let secret = "ada keeps a secret";
    let body = roster(&stage, &["show", &id, "--body"]);
    assert!(body.contains(secret), "the body as it was sent: {body}");
    let mut places = tables::everything(&stage.pool).await;
    places.extend(stage.logs());
    for arguments in [&["list"][..], &["list", "--json"], &["show", &id], &["show", &id, "--json"]] {
        places.push((format!("{arguments:?}"), roster(&stage, arguments).into_bytes()));
    }
    places.push(("metrics".to_owned(), worker.metrics().await.into_bytes()));
    for (place, text) in places {
        assert!(!String::from_utf8_lossy(&text).contains(secret), "the password stands in {place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_opens_under_its_own_secret_only() {
    let stage = Stage::new().await;
    let worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await;
    let id = letters(&stage).await;
    let show = |secret: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_roster"));
        command.args(["dead", "show", &id, "--body", "--json"]).env("DATABASE_URL", &stage.database_url);
        command.env_remove("ROSTER_SECRET").envs(secret.map(|secret| ("ROSTER_SECRET", secret)));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), output.stdout)
    };
    let (code, out) = show(Some(worker::SECRET));
    let shown: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((code, shown["data"]["body"].as_str()), (0, Some(&*person("ada").to_string())));
    assert_eq!(show(None), (2, Vec::new()));
    assert_eq!(show(Some("another secret that is long enough to be one")), (1, Vec::new()));

    // A worker with another secret cannot run it, and says so.
    drop(worker);
    let other = "yet another secret that is long enough to be one";
    let _other = stage.worker().env("ROSTER_SECRET", other).start().await;
    roster(&stage, &["replay", &id, "--yes"]);
    eventually("it is given up", async || {
        let letter = &list(&stage, &["--id", &id])[0];
        match letter["state"] == "dead" && letter["last_error"].as_str().unwrap().contains("ROSTER_SECRET") {
            true => Ok(()),
            false => Err(letter.to_string()),
        }
    })
    .await;
    assert_eq!(show(Some(worker::SECRET)).0, 0, "its body is what it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_is_for_good_and_says_first_what_it_would_do() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await;
    let id = letters(&stage).await;
    assert_eq!(roster_says(&stage, &["drop"]).0, 2, "all must be asked for");
    assert_eq!(roster_says(&stage, &["drop", "--all", &id]).0, 2);
    let (code, planned, said) = roster_says(&stage, &["drop", "--reason", "refused"]);
    assert!(code == 0 && planned.contains("user.update.v1") && said.contains("--yes"), "{planned}{said}");
    assert!(!planned.contains(&id));
    dead(&stage, 3).await;
    roster(&stage, &["drop", "--reason", "refused", "--yes"]);
    dead(&stage, 2).await;
    roster(&stage, &["drop", &id, "--yes"]);
    dead(&stage, 1).await;
    roster(&stage, &["drop", "--all", "--yes"]);
    nothing_kept(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_not_there_is_told_and_the_others_are_done() {
    let stage = Stage::new().await;
    let _worker = stage.worker().env("ROSTER_RETRY_DELAYS", "1ms").start().await;
    let id = letters(&stage).await;
    let nobody = uuid::Uuid::now_v7().to_string();
    for way in [["replay", &nobody], ["drop", &nobody]] {
        let (code, _, said) = roster_says(&stage, &way);
        assert!(code == 1 && said.contains(&nobody), "{code}: {said}");
    }
    let (code, _, said) = roster_says(&stage, &["drop", "--yes", &nobody, &id]);
    assert!(code == 1 && said.contains("dropped 1") && said.contains(&nobody), "{code}: {said}");
    dead(&stage, 2).await;
}
