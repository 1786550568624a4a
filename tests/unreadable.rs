//! Messages whose properties are not even AMQP as lapin reads it: text that is no UTF-8, tables nested without end.
//! The broker passes both on.

use std::net::SocketAddr;

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Caller, Request, Stage, broker, eventually, person, tables};

/// What a client of ours can write, and what goes to the broker in its place: text that is no UTF-8, and a table in
/// place of a string.
const SPOILT: [(&[u8], &[u8]); 2] =
    [(b"(Umlaut)", b"(\xc4\xd6\xdc\xe4\xf6\xfc)"), (b"\x04deepS", b"\x04deepF")];

/// Leads to the broker, and spoils what passes.
async fn spoiling(upstream: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&upstream).await.unwrap();
            let (mut from, mut back) = client.into_split();
            let (mut answers, mut to) = server.into_split();
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = from.read(&mut buffer).await {
                    let piece = &mut buffer[..count];
                    for (written, sent) in SPOILT {
                        while let Some(at) = piece.windows(written.len()).position(|window| window == written)
                        {
                            piece[at..at + sent.len()].copy_from_slice(sent);
                        }
                    }
                    if to.write_all(piece).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        }
    });
    address
}

async fn spoiler(stage: &Stage) -> Caller {
    let proxy = spoiling(broker::address(&stage.amqp_url)).await;
    let url = broker::through(&stage.amqp_url, proxy);
    Caller::connect(&url, &stage.namespace, Some(broker::user_in(&stage.amqp_url))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_that_are_no_utf_8_hold_nothing_up() {
    let (stage, mut worker) = Stage::with_worker().await;
    let (spoiler, caller) = (spoiler(&stage).await, stage.service().await);
    let create = |n: u32| spoiler.request("user.create.v1", person(&format!("spoilt{n}")));
    let text = || "(Umlaut)".to_owned();
    let bad = [
        create(0).kind("user.create.(Umlaut)"),
        create(1).correlation(Some("(Umlaut)")),
        create(2).header("(Umlaut)", AMQPValue::Boolean(true)),
        Request { expiration: None, content_type: Some(text()), ..create(3) },
        spoiler.request("user.get.v1", json!({ "email": "a@b" })).correlation(Some("(Umlaut)")),
    ];
    for request in &bad {
        spoiler.send(request).await;
    }
    let id = caller.create("ada").await;
    let query = caller.ask("user.get.v1", json!({ "id": id })).await;
    assert_eq!(query.data()["name"], "Ada");
    assert_eq!(spoiler.reply(&bad[0]).await.refusal(), "BAD_REQUEST unknown_type");
    assert!(spoiler.reply(&bad[2]).await.is_success());
    assert_eq!(spoiler.reply(&bad[3]).await.refusal(), "BAD_REQUEST unsupported_content_type");
    for _ in 0..2 {
        let mended = spoiler.reply_within("(??????)", crate::support::PATIENCE).await;
        assert!(mended.is_some(), "the command and the query are answered");
    }
    crate::support::load::settled(&stage).await;
    worker.wait_ready().await;
    assert!(tables::failed(&stage.pool).await.is_empty(), "each could be told");
}

/// A string that becomes a table on its way: as many tables, one in the other, as fit into a frame.
fn nested() -> AMQPValue {
    let mut nested = Vec::new();
    for _ in 0..18_000 {
        let length = u32::try_from(nested.len()).unwrap().to_be_bytes();
        nested = [b"\x01nF".as_slice(), &length, &nested].concat();
    }
    AMQPValue::LongString(nested.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_nested_without_end_are_a_header_like_any_other() {
    let (stage, mut worker) = Stage::with_worker().await;
    let spoiler = spoiler(&stage).await;
    let create = spoiler.request("user.create.v1", person("ada")).header("deep", nested());
    let id = spoiler.ask_with(&create).await.id();
    let get = spoiler.request("user.get.v1", json!({ "id": id })).header("deep", nested());
    assert_eq!(spoiler.ask_with(&get).await.data()["name"], "Ada");
    worker.wait_ready().await;
}

/// Where the worker has no such stacks, the broker parks it in the end; there it must do no more harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_message_with_tables_nested_without_end_becomes_a_dead_letter() {
    let stage = Stage::new().await;
    // Shallow, or it could read what the mending is for.
    let mut worker = stage.worker().env("RUST_MIN_STACK", "2097152").start().await;
    worker.kill();
    let mut headers = FieldTable::default();
    headers.insert("deep".into(), nested());
    let properties = BasicProperties::default().with_type("user.update.v1".into()).with_headers(headers);
    let url = broker::through(&stage.amqp_url, spoiling(broker::address(&stage.amqp_url)).await);
    let connection = broker::connect_to(&url, "roster-tests spoiler").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let (exchange, options) = (format!("{}.dead", stage.namespace), BasicPublishOptions::default());
    let publish = channel.basic_publish(exchange.into(), "".into(), options, b"{}", properties);
    assert!(publish.await.unwrap().await.unwrap().is_ack());
    worker.restart().await;
    eventually("it is a dead letter", async || match tables::failed(&stage.pool).await.as_slice() {
        [one] if one.state == "dead" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    worker.wait_ready().await;
}
