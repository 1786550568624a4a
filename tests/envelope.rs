//! Malformed and hostile messages: one refusal or one dead letter each, and nothing else.

use lapin::options::{BasicConsumeOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use rstest::rstest;
use serde_json::json;
use uuid::Uuid;

use crate::support::history::Failed;
use crate::support::{Caller, Reply, Request, Stage, eventually, person, tables};

/// What is wrong, the request, and its refusal as code and reason.
type Case = (&'static str, Request, &'static str);

fn malformed(caller: &Caller) -> Vec<Case> {
    let request = || caller.request("user.create.v1", person("ada"));
    let ada = person("ada").to_string();
    let json = "BAD_REQUEST malformed_json";
    let twice = r#"{"email":"a@b","email":"c@d","name":"Ada","password":"12345678"}"#;
    let deep = format!(r#"{{"id":{}"#, "[".repeat(10_000));
    let closed = format!(r#"{{"id":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let mut latin = ada.clone().into_bytes();
    latin.insert(12, 0xe4);
    vec![
        ("no JSON", request().body("user, please"), json),
        ("an unfinished object", request().body(r#"{"email":"#), json),
        ("nothing at all", request().body(""), json),
        ("an array", request().body("[]"), json),
        ("null", request().body("null"), json),
        ("a string", request().body("\"ada\""), json),
        ("two objects", request().body(format!("{ada}{ada}")), json),
        ("trailing bytes", request().body(format!("{ada} x")), json),
        ("a duplicate key", request().body(twice), json),
        ("invalid UTF-8", request().body(latin), json),
        ("a byte order mark", request().body(format!("\u{feff}{ada}")), json),
        ("UTF-16", request().body(ada.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()), json),
        ("a bottomless pit", request().body(deep), json),
        ("a very deep one", request().body(closed), json),
        ("64 KiB and a byte", request().body(padded(&ada, 64 * 1024 + 1)), "BAD_REQUEST too_large"),
        ("10 MB", request().body(vec![b'['; 10_000_000]), "BAD_REQUEST too_large"),
    ]
}

fn envelopes(caller: &Caller) -> Vec<Case> {
    let request = || caller.request("user.create.v1", person("ada"));
    let number = AMQPValue::LongLongInt(2_000_000_000);
    let content_type = "BAD_REQUEST unsupported_content_type";
    vec![
        ("an unknown type", request().kind("user.explode.v1"), "BAD_REQUEST unknown_type"),
        ("an unknown version", request().kind("user.create.v9"), "BAD_REQUEST unknown_type"),
        ("a query among commands", request().kind("user.get.v1"), "BAD_REQUEST unknown_type"),
        ("an empty type", request().kind(""), "BAD_REQUEST missing"),
        ("no type", request().kind(None), "BAD_REQUEST missing"),
        ("text", request().content_type(Some("text/plain")), content_type),
        ("XML", request().content_type(Some("application/xml")), content_type),
        ("no message id", request().no_id(), "BAD_REQUEST missing_message_id"),
        ("a message id of another kind", request().id("order-7"), "BAD_REQUEST invalid_uuid"),
        ("an empty message id", request().id(""), "BAD_REQUEST missing_message_id"),
        ("an unreadable deadline", request().deadline("tomorrow"), "BAD_REQUEST invalid_value"),
        ("a deadline that is a number", request().header("deadline", number), "BAD_REQUEST invalid_value"),
        ("a deadline that has passed", request().deadline("2020-02-02T02:02:02Z"), "EXPIRED deadline_passed"),
    ]
}

fn strings(caller: &Caller) -> Vec<Case> {
    let request = |text: &str| {
        let body = format!(r#"{{"email":"ada@example.com","password":"12345678","name":"{text}"}}"#);
        caller.request("user.create.v1", json!({})).body(body)
    };
    let invalid = "BAD_REQUEST invalid_value";
    vec![
        ("an escaped NUL", request("Ada\\u0000"), invalid),
        ("an escaped control character", request("Ada\\u001b[31m"), invalid),
        ("a delete", request("Ada\\u007f"), invalid),
        ("a C1 control character", request("Ada\\u0085"), invalid),
        ("a lone surrogate", request("Ada\\ud800"), invalid),
        ("a raw control character", request("Ada\u{1}"), "BAD_REQUEST malformed_json"),
    ]
}

/// Blanks before the closing brace, up to `length` bytes.
fn padded(body: &str, length: usize) -> String {
    let open = body.strip_suffix('}').unwrap();
    format!("{open}{}}}", " ".repeat(length - body.len()))
}

async fn refused(caller: &Caller, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for (what, request, expected) in cases {
        caller.send(&request).await;
        let reply: Reply = caller.reply(&request).await;
        if reply.is_success() || reply.refusal() != expected {
            wrong.push(format!("{what}: not {expected} but {}", reply.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn whatever_is_wrong_with_a_command_is_answered_and_leaves_nothing_behind() {
    let (stage, mut worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    refused(&caller, malformed(&caller)).await;
    refused(&caller, envelopes(&caller)).await;
    refused(&caller, strings(&caller)).await;
    assert!(tables::inbox(&stage.pool).await.is_empty());
    assert!(tables::failed(&stage.pool).await.is_empty());
    assert!(worker.is_running());
    caller.create("ada").await;
}

#[tokio::test]
async fn whatever_is_wrong_with_a_query_is_answered_too() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = Uuid::now_v7();
    let request = || caller.request("user.get.v1", json!({ "id": id }));
    let cases = vec![
        ("no JSON", request().body("{"), "BAD_REQUEST malformed_json"),
        ("an array", request().body("[]"), "BAD_REQUEST malformed_json"),
        ("a command among queries", request().kind("user.create.v1"), "BAD_REQUEST unknown_type"),
        ("text", request().content_type(Some("text/plain")), "BAD_REQUEST unsupported_content_type"),
        ("a late one", request().deadline("2020-02-02T02:02:02Z"), "EXPIRED deadline_passed"),
        ("too much", request().body(vec![b' '; 70_000]), "BAD_REQUEST too_large"),
        ("an unknown field", request().json(&json!({ "id": id, "x": 1 })), "BAD_REQUEST unknown_field"),
    ];
    refused(&caller, cases).await;
    assert_eq!(caller.ask_with(&request()).await.code(), "NOT_FOUND");
}

#[tokio::test]
async fn a_body_of_exactly_64_kib_and_an_absent_content_type_are_fine() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let body = padded(&person("ada").to_string(), 64 * 1024);
    let request = caller.request("user.create.v1", json!({})).body(body);
    assert!(caller.ask_with(&request.content_type(None)).await.is_success());
}

#[tokio::test]
async fn a_deadline_ahead_does_no_harm_and_one_passed_while_queued_is_expired() {
    let (stage, worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    let update = |name: &str, seconds: i64| {
        let deadline = chrono::Utc::now() + chrono::Duration::seconds(seconds);
        let body = json!({ "id": id, "name": name });
        caller.request("user.update.v1", body).deadline(&deadline.to_rfc3339())
    };
    assert_eq!(caller.ask_with(&update("In time", 3600)).await.version(), 2);
    worker.freeze();
    let late = update("Too late", 1);
    caller.send(&late).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    worker.thaw();
    assert_eq!(caller.reply(&late).await.refusal(), "EXPIRED deadline_passed");
    let user = caller.ask("user.get.v1", json!({ "id": id })).await;
    assert_eq!(user.data()["name"], "In time");
}

#[tokio::test]
async fn a_reply_without_a_correlation_id_carries_the_message_id() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let request = caller.request("user.create.v1", person("ada")).correlation(None);
    assert!(caller.ask_with(&request).await.is_success());
    // As it was sent: the caller may compare text.
    let loud = request.message_id.as_deref().map(str::to_uppercase);
    let again = caller.ask_with(&request.id(loud.unwrap())).await;
    assert_eq!((again.is_success(), again.replayed), (true, Some(true)));
}

async fn dead_letters(stage: &Stage, count: usize) -> Vec<Failed> {
    eventually(&format!("{count} dead letters"), async || {
        let failed = tables::failed(&stage.pool).await;
        match failed.len() == count && failed.iter().all(|row| row.state == "dead") {
            true => Ok(failed),
            false => Err(format!("{failed:?}")),
        }
    })
    .await
}

#[rstest]
#[case::without_a_reply_queue(false)]
#[case::with_one_that_is_not_allowed(true)]
#[tokio::test]
async fn what_is_refused_with_nobody_to_tell_becomes_a_dead_letter(#[case] hostile: bool) {
    let (stage, mut worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let ada = caller.request("user.create.v1", person("ada"));
    caller.ask_with(&ada).await.data();
    let victim = stage.object("victim");
    stage.remember_queue(&victim);
    declare(&caller, &victim, true).await;
    let silent = |request: Request| match hostile {
        true => request.reply_to(&victim),
        false => request.no_reply(),
    };
    let bob = || caller.request("user.create.v1", person("bob"));
    let nobody = json!({ "id": Uuid::now_v7(), "name": "Nobody" });
    let cases = [
        (bob().body("{"), "malformed"),
        (bob().body("[]"), "malformed"),
        (bob().body(vec![b'x'; 70_000]), "malformed"),
        (bob().no_id(), "malformed"),
        (bob().id("seven"), "malformed"),
        (bob().kind("user.explode.v1"), "unknown_type"),
        (bob().json(&json!({ "name": "" })), "refused"),
        (caller.request("user.update.v1", nobody), "refused"),
        (bob().deadline("2020-02-02T02:02:02Z"), "expired"),
        (bob().id(ada.message_id.as_ref().unwrap()), "message_id_reused"),
    ];
    let mut expected: Vec<&str> = Vec::new();
    for (request, reason) in cases {
        caller.send(&silent(request)).await;
        expected.push(reason);
    }
    let failed = dead_letters(&stage, expected.len()).await;
    let mut reasons: Vec<String> = failed.into_iter().filter_map(|row| row.reason).collect();
    reasons.sort_unstable();
    expected.sort_unstable();
    assert_eq!(reasons, expected);
    assert_eq!(tables::events(&stage.pool).await.len(), 1, "nothing was changed");
    assert!(is_empty(&caller, &victim).await);
    assert!(worker.is_running());
}

#[tokio::test]
async fn a_hostile_reply_queue_counts_as_absent_and_gets_nothing() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let victim = stage.object("victim");
    stage.remember_queue(&victim);
    declare(&caller, &victim, true).await;
    let targets = [
        victim.clone(),
        stage.object("commands"),
        stage.object("dead"),
        "amq.rabbitmq.log".to_owned(),
        format!("../{victim}"),
        "amq.rabbitmq.reply-to.forged".to_owned(),
        "amq.gen-nobody".to_owned(),
        String::new(),
    ];
    for (n, target) in targets.iter().enumerate() {
        let body = person(&format!("user{n}"));
        let create = caller.request("user.create.v1", body).reply_to(target.clone());
        caller.send(&create).await;
        let query = caller.request("user.get.v1", json!({ "email": "a@b" }));
        caller.send(&query.reply_to(target.clone())).await;
    }
    eventually("the effects stand", async || match tables::users(&stage.pool).await.len() {
        count if count == targets.len() => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    assert!(is_empty(&caller, &victim).await);
    assert!(tables::failed(&stage.pool).await.is_empty());
    caller.create("afterwards").await;
}

#[tokio::test]
async fn replies_go_to_a_queue_of_the_callers_own_if_its_name_is_allowed() {
    let stage = Stage::new().await;
    let own = format!("answers.{}", stage.namespace);
    let allowed = format!("answers.{}", &stage.namespace[..8]);
    let allowed = format!("{allowed}*,amq.gen-*");
    let _worker = stage.worker().env("ROSTER_REPLY_TO", allowed).start().await;
    let caller = stage.service().await;
    declare(&caller, &own, false).await;
    let generated = declare(&caller, "", false).await;
    for queue in [own, generated] {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming =
            caller.channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
        let mut deliveries = consuming.await.unwrap();
        let query = caller.request("user.get.v1", json!({ "id": Uuid::now_v7() }));
        caller.send(&query.clone().reply_to(&queue)).await;
        let wait = futures_util::StreamExt::next(&mut deliveries);
        let delivery = tokio::time::timeout(crate::support::PATIENCE, wait).await;
        let delivery = delivery.expect("a reply").unwrap().unwrap();
        let reply = Reply::new(&delivery.properties, &delivery.data);
        assert_eq!(reply.correlation_id, query.correlation_id);
        assert_eq!(reply.code(), "NOT_FOUND");
    }
    let direct = caller.ask("user.get.v1", json!({ "id": Uuid::now_v7() })).await;
    assert_eq!(direct.code(), "NOT_FOUND", "a direct reply is always allowed");
}

#[tokio::test]
async fn how_often_it_was_delivered_is_not_for_the_sender_to_say() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    let create = caller.request("user.create.v1", person("ada"));
    let create = create.header("x-delivery-count", AMQPValue::LongLongInt(15));
    assert!(caller.ask_with(&create).await.is_success());
}

#[tokio::test]
async fn a_caller_that_is_gone_takes_nothing_with_it() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    for n in 0..20 {
        let leaving = stage.service().await;
        let body = person(&format!("user{n}"));
        leaving.send(&leaving.request("user.create.v1", body)).await;
        let query = leaving.request("user.list.v1", json!({}));
        leaving.send(&query).await;
        leaving.connection.close(200, "gone".into()).await.unwrap();
    }
    eventually("all are created", async || match tables::users(&stage.pool).await.len() {
        20 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    caller.create("afterwards").await;
    crate::support::load::settled(&stage).await;
    assert_eq!(tables::inbox(&stage.pool).await.len(), 21);
}

#[tokio::test]
async fn a_query_with_nobody_to_answer_is_dropped() {
    let (stage, _worker) = Stage::with_worker().await;
    let caller = stage.service().await;
    for _ in 0..5 {
        caller.send(&caller.request("user.list.v1", json!({})).no_reply()).await;
        caller.send(&caller.request("user.list.v1", json!({})).no_reply().body("{")).await;
    }
    caller.create("ada").await;
    crate::support::load::settled(&stage).await;
    assert!(tables::failed(&stage.pool).await.is_empty());
}

/// Declares a queue that lives as long as the caller; gives its name.
async fn declare(caller: &Caller, name: &str, deletable: bool) -> String {
    let options =
        QueueDeclareOptions { exclusive: !deletable, auto_delete: true, ..QueueDeclareOptions::default() };
    let declared =
        caller.channel.queue_declare(name.into(), options, FieldTable::default()).await.expect("a queue");
    declared.name().to_string()
}

async fn is_empty(caller: &Caller, queue: &str) -> bool {
    let options = BasicGetOptions { no_ack: true };
    let got = caller.channel.basic_get(queue.into(), options).await;
    got.expect("the queue").is_none()
}
