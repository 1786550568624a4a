//! The typed client against a stand-in that misbehaves on purpose, and against the real worker.

mod stand_in;

use std::time::{Duration, Instant};

use roster::client::{
    CallOptions, Client, Code, Command, CreateUser, Error, Event, Gap, GetUser, ListUsers, Options, Query,
    Role, Unavailable, UpdateUser, UserId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, Stage, broker, eventually};
use stand_in::{Got, StandIn, event};

#[derive(Debug, Clone, Serialize)]
struct Double {
    number: u64,
}

impl Command for Double {
    const NAME: &'static str = "number.double.v1";
    type Reply = u64;
}

impl Query for Double {
    const NAME: &'static str = "number.double.v1";
    type Reply = u64;
    type Meta = ();
}

fn doubled(got: &Got) -> Vec<(String, bool)> {
    #[derive(Deserialize)]
    struct Body {
        number: u64,
    }
    let body: Body = serde_json::from_str(&got.body).unwrap();
    vec![(format!(r#"{{"data":{}}}"#, body.number * 2), got.times > 1)]
}

fn quick(stand_in: &StandIn) -> Options {
    Options {
        namespace: stand_in.namespace.clone(),
        timeout: Duration::from_millis(500),
        attempts: 3,
        ..Options::default()
    }
}

fn patient(stand_in: &StandIn) -> Options {
    Options { timeout: PATIENCE, ..quick(stand_in) }
}

async fn connect(options: Options) -> Client {
    Client::connect(&broker::url(), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_calls_share_a_connection_and_each_gets_its_own_answer() {
    let stand_in = StandIn::start(Box::new(doubled)).await;
    let client = connect(patient(&stand_in)).await;
    let calls = (0..1000).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let sent = client.send(Double { number }).await.unwrap();
            let asked = client.query(Double { number }).await.unwrap().data;
            (number, sent, asked)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let (number, sent, asked) = call.await.unwrap();
        assert_eq!((sent, asked), (number * 2, number * 2));
    }
}

#[tokio::test]
async fn a_request_carries_what_the_contract_asks_for() {
    let stand_in = StandIn::start(Box::new(doubled)).await;
    let options = Options {
        token: Some("a.b.c".into()),
        deadline: Some(Duration::from_secs(60)),
        ..patient(&stand_in)
    };
    let client = connect(options).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let own = CallOptions { traceparent: Some(trace.to_owned()), ..CallOptions::default() };
    let reply = client.send_with(Double { number: 1 }, own).await.unwrap();
    let got = stand_in.got().remove(0);
    assert_eq!(got.kind(), "number.double.v1");
    assert_eq!(got.user(), broker::user());
    assert_eq!(got.message_id(), reply.message_id.to_string());
    assert_eq!(reply.message_id.get_version_num(), 7);
    assert_eq!(got.header("authorization").unwrap(), "Bearer a.b.c");
    assert_eq!(got.header("traceparent").unwrap(), trace);
    let deadline = got.header("deadline").unwrap();
    let ahead = deadline.parse::<chrono::DateTime<chrono::Utc>>().unwrap() - chrono::Utc::now();
    assert!((1..=60).contains(&ahead.num_seconds()), "{deadline}");
    assert_eq!(got.properties.delivery_mode(), &Some(2));
}

#[tokio::test]
async fn silence_is_met_with_the_same_message_id() {
    let script = |got: &Got| match got.times {
        1 => Vec::new(),
        _ => doubled(got),
    };
    let stand_in = StandIn::start(Box::new(script)).await;
    let client = connect(quick(&stand_in)).await;
    let reply = client.send_with(Double { number: 4 }, CallOptions::default()).await.unwrap();
    assert_eq!((reply.data, reply.replayed), (8, true));
    let got = stand_in.got();
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].message_id(), got[1].message_id());
    assert_eq!(got[0].body, got[1].body);
}

#[tokio::test]
async fn after_the_last_try_the_call_says_what_to_send_again() {
    let stand_in = StandIn::start(Box::new(|_| Vec::new())).await;
    let client = connect(quick(&stand_in)).await;
    let message_id = Uuid::now_v7();
    let own = CallOptions { message_id: Some(message_id), ..CallOptions::default() };
    let error = client.send_with(Double { number: 1 }, own).await.unwrap_err();
    let Error::TimedOut { message_id: told, tries, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((told, tries), (message_id, 3));
    assert_eq!(stand_in.got().len(), 3);
}

#[tokio::test]
async fn a_second_answer_harms_nobody() {
    let script = |got: &Got| [doubled(got), doubled(got)].concat();
    let stand_in = StandIn::start(Box::new(script)).await;
    let client = connect(patient(&stand_in)).await;
    for number in 0..20 {
        assert_eq!(client.send(Double { number }).await.unwrap(), number * 2);
    }
}

#[tokio::test]
async fn a_refusal_comes_typed_and_is_not_sent_again() {
    let refusal = r#"{"error":{"code":"CONFLICT","message":"the e-mail address is taken",
        "details":[{"field":"email","reason":"email_taken","message":"is taken"}]}}"#;
    let stand_in = StandIn::start(Box::new(move |_| vec![(refusal.to_owned(), false)])).await;
    let client = connect(patient(&stand_in)).await;
    let error = client.send(Double { number: 1 }).await.unwrap_err();
    let refused = error.refusal().unwrap();
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.has_reason("email_taken"));
    let raw = client.send_json("number.double.v1", "{}", CallOptions::default()).await.unwrap();
    assert_eq!(raw.body, refusal.as_bytes());
    assert_eq!(raw.refusal().unwrap().unwrap(), *refused);
    assert_eq!(stand_in.got().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_no_reply_is_told_apart_from_silence() {
    let stand_in = StandIn::start(Box::new(|_| vec![("nonsense".to_owned(), false)])).await;
    let client = connect(patient(&stand_in)).await;
    let error = client.send(Double { number: 1 }).await.unwrap_err();
    assert!(matches!(error, Error::BadReply { .. }), "{error}");
}

#[tokio::test]
async fn a_missing_queue_is_told_at_once() {
    let options = Options { namespace: format!("t{}", Uuid::new_v4().simple()), ..Options::default() };
    let namespace = options.namespace.clone();
    let client = connect(options).await;
    let began = Instant::now();
    let error = client.send(Double { number: 1 }).await.unwrap_err();
    let Error::Unavailable(Unavailable::Missing { object }) = &error else {
        panic!("{error}");
    };
    assert_eq!(*object, format!("{namespace}.commands"));
    assert!(began.elapsed() < Duration::from_secs(9));
    assert!(client.events("#").await.is_err());
}

#[tokio::test]
async fn a_wrong_password_is_told_at_once_and_not_shown() {
    let url = broker::url();
    let wrong = format!("amqp://{}:hunter2@{}", broker::user(), broker::address(&url));
    let error = Client::connect(&wrong, Options::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(Unavailable::Broker { .. })));
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_in_flight_survive_a_lost_connection() {
    let script = |got: &Got| match got.times {
        1 => Vec::new(),
        _ => doubled(got),
    };
    let stand_in = StandIn::start(Box::new(script)).await;
    let proxy = Proxy::start(&broker::address(&broker::url())).await;
    let url = broker::through(&broker::url(), proxy.address);
    let client = Client::connect(&url, patient(&stand_in)).await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.send(Double { number }).await.unwrap() })
        })
        .collect();
    while stand_in.got().len() < 50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.reset();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), number as u64 * 2);
    }
    assert_eq!(stand_in.got().len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dead_connection_is_given_up_when_it_no_longer_confirms() {
    let stand_in = StandIn::start(Box::new(doubled)).await;
    let proxy = Proxy::start(&broker::address(&broker::url())).await;
    let url = broker::through(&broker::url(), proxy.address);
    let options = Options { timeout: Duration::from_secs(2), attempts: 20, ..quick(&stand_in) };
    let client = Client::connect(&url, options).await.unwrap();
    assert_eq!(client.send(Double { number: 1 }).await.unwrap(), 2);
    proxy.strand();
    assert_eq!(client.send(Double { number: 2 }).await.unwrap(), 4);
    assert!(proxy.accepted() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_stands_still_holds_no_call_longer_than_its_tries_take() {
    let stand_in = StandIn::start(Box::new(doubled)).await;
    let proxy = Proxy::start(&broker::address(&broker::url())).await;
    let url = broker::through(&broker::url(), proxy.address);
    let client = Client::connect(&url, Options { attempts: 2, ..quick(&stand_in) }).await.unwrap();
    proxy.black_hole();
    let began = Instant::now();
    let error = client.send(Double { number: 1 }).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    // Long before the connection is seen to be dead.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn where_the_broker_refuses_another_connection_is_tried() {
    let full = StandIn::full().await;
    let proxy = Proxy::start(&broker::address(&broker::url())).await;
    let url = broker::through(&broker::url(), proxy.address);
    let client = Client::connect(&url, Options { attempts: 1, ..patient(&full) }).await.unwrap();
    eventually("another connection is made", async || {
        let error = client.send(Double { number: 1 }).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(Unavailable::Full { .. })), "{error}");
        if proxy.accepted() > 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    broker::delete(&broker::url(), &full.namespace, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_stream_tells_gaps_and_interruptions_and_goes_on() {
    let listed = move |got: &Got| {
        assert_eq!(got.kind(), "event.list.v1");
        let events = format!("{},{}", event("ada", 3), event("ada", 4));
        vec![(format!(r#"{{"data":[{events}],"meta":{{"has_more":false}}}}"#), false)]
    };
    let stand_in = StandIn::start(Box::new(listed)).await;
    let proxy = Proxy::start(&broker::address(&broker::url())).await;
    let url = broker::through(&broker::url(), proxy.address);
    let client = Client::connect(&url, patient(&stand_in)).await.unwrap();
    let mut events = client.events("user.*.v1").await.unwrap();
    for sequence in [1, 2, 2, 5] {
        stand_in.announce("ada", sequence).await;
    }
    assert_eq!(events.next().await.unwrap().unwrap().sequence, 1);
    assert_eq!(events.next().await.unwrap().unwrap().sequence, 2);
    let Err(Error::Gap(gap)) = events.next().await.unwrap() else {
        panic!("no gap");
    };
    assert_eq!((gap.expected, gap.found), (3, 5));
    let missed = client.missed(&gap).await.unwrap();
    assert_eq!(missed.iter().map(|event| event.sequence).collect::<Vec<_>>(), [3, 4]);
    let event = events.next().await.unwrap().unwrap();
    assert_eq!((event.sequence, event.kind.as_str()), (5, "user.renamed.v1"));

    proxy.reset();
    assert!(matches!(events.next().await, Some(Err(Error::Interrupted))));
    stand_in.announce("ada", 6).await;
    assert_eq!(events.next().await.unwrap().unwrap().sequence, 6);

    client.close().await;
    while let Some(item) = events.next().await {
        assert!(item.is_err(), "{item:?}");
    }
    let error = client.send(Double { number: 1 }).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(Unavailable::Closed)), "{error}");
}

/// A client of a real worker's stage, patient enough for a busy machine.
async fn connect_to(stage: &Stage) -> Client {
    let options =
        Options { namespace: stage.namespace.clone(), timeout: PATIENCE, attempts: 3, ..Options::default() };
    connect(options).await
}

fn ada(email: &str) -> CreateUser {
    CreateUser::new(email.parse().unwrap(), "Ada".parse().unwrap(), "correct horse battery")
}

#[tokio::test]
async fn typed_calls_reach_a_real_worker_and_come_back_typed() {
    let (stage, _worker) = Stage::with_worker().await;
    let client = connect_to(&stage).await;
    let first = client.send_with(ada("ada@example.com"), CallOptions::default()).await.unwrap();
    assert_eq!((first.data.version, first.data.role, first.replayed), (1, Role::User, false));
    let own = CallOptions { message_id: Some(first.message_id), ..CallOptions::default() };
    let again = client.send_with(ada("ada@example.com"), own.clone()).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.data, first.data);

    let taken = client.send(ada("ada@example.com")).await.unwrap_err();
    let taken = taken.refusal().unwrap();
    assert_eq!(taken.code, Code::Conflict);
    assert!(taken.has_reason("email_taken"));
    let reused = client.send_with(ada("bea@example.com"), own).await.unwrap_err();
    assert!(reused.refusal().unwrap().has_reason("message_id_reused"));

    let rename = UpdateUser {
        id: UserId::new(first.data.id),
        name: Some("Ada Lovelace".parse().unwrap()),
        email: None,
        expected_version: Some(1),
    };
    assert_eq!(client.send(rename).await.unwrap().version, 2);
    let ada = client.query(GetUser::by_email("ADA@example.com".parse().unwrap())).await.unwrap().data;
    assert_eq!((ada.name.as_str(), ada.version), ("Ada Lovelace", 2));
    let page = client.query(ListUsers::default()).await.unwrap();
    assert_eq!(page.data, [ada]);
    let meta = page.meta.unwrap();
    assert_eq!((meta.page, meta.total, meta.next_cursor), (Some(1), Some(1), None));
}

#[tokio::test]
async fn a_call_outlives_the_worker_that_took_it() {
    let (stage, mut worker) = Stage::with_worker().await;
    let options = Options {
        namespace: stage.namespace.clone(),
        timeout: Duration::from_secs(2),
        attempts: 60,
        ..Options::default()
    };
    let client = connect(options).await;
    worker.kill();
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.send(ada(&format!("ada-{n}@example.com"))).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    worker.restart().await;
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().version, 1);
    }
    let users: i64 = sqlx::query_scalar("select count(*) from users").fetch_one(&stage.pool).await.unwrap();
    assert_eq!(users, 20);
}

#[tokio::test]
async fn a_workers_events_come_in_order_and_a_gap_can_be_filled() {
    let (stage, _worker) = Stage::with_worker().await;
    let client = connect_to(&stage).await;
    let mut events = client.events("user.*.v1").await.unwrap();
    let user = client.send(ada("ada@example.com")).await.unwrap();
    for name in ["Ada King", "Ada Lovelace", "Ada"] {
        let rename = UpdateUser {
            id: UserId::new(user.id),
            name: Some(name.parse().unwrap()),
            email: None,
            expected_version: None,
        };
        client.send(rename).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(events.next().await.unwrap().unwrap());
    }
    assert_eq!(seen.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(seen[0].kind, "user.created.v1");
    assert_eq!(seen[0].subject, user.id.to_string());
    assert!(seen.iter().all(|event| event.causation_id.is_some() && event.actor.is_some()));
    let gap = Gap { subject: user.id.to_string(), expected: 2, found: 4 };
    let missed = client.missed(&gap).await.unwrap();
    let same = |missed: &Event, seen: &Event| (missed.id == seen.id) && (missed.data == seen.data);
    assert_eq!(missed.len(), 2);
    assert!(same(&missed[0], &seen[1]) && same(&missed[1], &seen[2]), "{missed:?}");
}
