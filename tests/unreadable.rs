//! Messages whose properties are not even AMQP as lapin reads it: text that is no UTF-8, which the broker passes on.

use std::net::SocketAddr;

use lapin::types::AMQPValue;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Caller, Request, Stage, broker, person, tables};

/// What a client of ours can write, and what goes to the broker in its place.
const WRITTEN: &[u8] = b"(Umlaut)";
const SENT: &[u8] = b"(\xc4\xd6\xdc\xe4\xf6\xfc)";

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
                    while let Some(at) = piece.windows(WRITTEN.len()).position(|window| window == WRITTEN) {
                        piece[at..at + SENT.len()].copy_from_slice(SENT);
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
