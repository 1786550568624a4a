//! A broker that is restarted, killed, out of memory, or has other ideas about who may do what. On a
//! server of the suite's own, one test at a time.

use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::json;

use crate::support::private::{self, Private};
use crate::support::random::Mix;
use crate::support::run::Run;
use crate::support::{PATIENCE, Request, Stage, Worker, broker, eventually, tables};

const SMALL: Mix = Mix { users: 6, commands: 200, wide: false };

async fn stage_on(servers: &Private) -> Stage {
    Stage::on_servers(servers.amqp_url.clone(), servers.server_url.clone()).await
}

/// From the moment the broker lets anybody in to that when so many consume from the command queue again.
async fn consumed_again(stage: &Stage, workers: u32) -> Duration {
    let (queue, limit) = (stage.object("commands"), Instant::now() + 2 * PATIENCE);
    // A broker that dies in the middle of an answer never gives it.
    let connect = async || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(Instant::now() < limit, "the broker or the workers do not come back");
        let connecting = broker::connect_to(&stage.amqp_url, "roster-tests recovery");
        tokio::time::timeout(Duration::from_secs(1), connecting).await.ok()?.ok()
    };
    while connect().await.is_some() {}
    let mut answers = None;
    loop {
        // One that was let in while the broker was still starting up may be let down again.
        let Some(connection) = connect().await else { continue };
        let answers = *answers.get_or_insert_with(Instant::now);
        let depth = || tokio::time::timeout(Duration::from_secs(1), broker::depth(&connection, &queue));
        while let Ok(Some((_, consumers))) = depth().await {
            if consumers >= workers {
                return answers.elapsed();
            }
            assert!(Instant::now() < limit, "nobody consumes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[rstest]
#[case::row_11_restarted("restart")]
#[case::row_12_killed("immediate")]
#[case::row_13_connections_closed("close")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_back_costs_nothing(#[case] action: &str) {
    let (servers, _turn) = private::shared().await;
    let stage = stage_on(servers).await;
    let (mut worker, mut other) = (stage.worker().start().await, stage.worker().start().await);
    let run = Run::start(&stage, SMALL).await;
    run.reach(0.3).await;
    match action {
        "close" => drop(servers.rabbitmqctl(&["-q", "close_all_connections", "an operator"]).await),
        action => {
            let (took, consumed) = tokio::join!(servers.ctl("rabbitmq", action), consumed_again(&stage, 2));
            eprintln!("rabbitmq {action}: took {took:.1?}; both consume {consumed:.1?} after it answers");
        }
    }
    let begun = Instant::now();
    worker.wait_ready().await;
    other.wait_ready().await;
    eprintln!("rabbitmq {action}: ready {:.1} s after it", begun.elapsed().as_secs_f64());
    other.terminate();
    assert_eq!(other.wait_exit(PATIENCE).await.code(), Some(0));
    run.finish(&stage, &mut worker).await;
}

/// A worker that is known to the broker as somebody whose rights can be taken away.
async fn with_a_user_of_its_own(servers: &Private, stage: &Stage, user: &str) -> Worker {
    servers.rabbitmqctl(&["-q", "add_user", user, "first"]).await;
    allow(servers, user).await;
    let address = broker::address(&stage.amqp_url);
    let url = format!("amqp://{user}:first@{address}");
    stage.worker().env("AMQP_URL", url).services("guest=admin").start().await
}

async fn allow(servers: &Private, user: &str) {
    servers.rabbitmqctl(&["-q", "set_permissions", user, ".*", ".*", ".*"]).await;
}

async fn throw_out(servers: &Private, user: &str) {
    servers.rabbitmqctl(&["-q", "close_all_user_connections", user, "an operator"]).await;
}

/// Waits until it says that it is not ready, and why.
async fn unready(worker: &mut Worker) -> String {
    eventually("it is not ready", async || match worker.get("/readyz").await? {
        (200, body) => Err(body),
        (_, body) => Ok(body),
    })
    .await
}

#[rstest]
#[case::row_15_permissions(false)]
#[case::row_47_credentials(true)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_taken_away_make_it_unready_until_they_are_given_back(#[case] credentials: bool) {
    let (servers, _turn) = private::shared().await;
    let stage = stage_on(servers).await;
    let user = if credentials { "renamed" } else { "restricted" };
    let mut worker = with_a_user_of_its_own(servers, &stage, user).await;
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    match credentials {
        true => drop(servers.rabbitmqctl(&["-q", "change_password", user, "second"]).await),
        false => drop(servers.rabbitmqctl(&["-q", "clear_permissions", user]).await),
    }
    throw_out(servers, user).await;
    let why = unready(&mut worker).await;
    assert!(!why.contains("first"), "{why}");
    // Slow retries, no tight loop: three sessions and a relay, each at most a few times a second.
    let before = worker.metric("roster_broker_reconnects_total", &[]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let tries = worker.metric("roster_broker_reconnects_total", &[]).await - before;
    assert!(tries < 60.0, "{tries} tries in 3 s");
    let update = caller.request("user.update.v1", json!({ "id": id, "name": "Countess" }));
    caller.send(&update).await;
    match credentials {
        true => drop(servers.rabbitmqctl(&["-q", "change_password", user, "first"]).await),
        false => allow(servers, user).await,
    }
    let begun = Instant::now();
    worker.wait_ready().await;
    eprintln!("rights given back: ready after {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(caller.reply(&update).await.version(), 2);
}

/// What the broker runs short of, by its own account.
#[derive(Clone, Copy, Debug)]
enum Alarm {
    Memory,
    Disk,
}

impl Alarm {
    async fn set(self, servers: &Private, on: bool) {
        let arguments = match (self, on) {
            (Self::Memory, true) => ["-q", "set_vm_memory_high_watermark", "0"],
            (Self::Memory, false) => ["-q", "set_vm_memory_high_watermark", "0.6"],
            (Self::Disk, true) => ["-q", "set_disk_free_limit", "900000000000000"],
            (Self::Disk, false) => ["-q", "set_disk_free_limit", "50MB"],
        };
        servers.rabbitmqctl(&arguments).await;
    }
}

/// Puts commands into the queue while nobody takes them.
async fn send_updates(stage: &Stage, worker: &mut Worker, count: usize) -> Vec<Request> {
    let caller = stage.service().await;
    let id = caller.create("ada").await;
    worker.kill();
    let update = |n| caller.request("user.update.v1", json!({ "id": id, "name": format!("Ada {n}") }));
    let updates: Vec<Request> = (0..count).map(update).collect();
    for update in &updates {
        caller.send(update).await;
    }
    updates
}

#[rstest]
#[case::memory(Alarm::Memory)]
#[case::disk(Alarm::Disk)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_under_an_alarm_acks_go_on_and_all_is_drained_after_it(#[case] alarm: Alarm) {
    let (servers, _turn) = private::shared().await;
    let stage = stage_on(servers).await;
    let mut worker = stage.worker().start().await;
    let subscriber = stage.subscriber().await;
    let updates = send_updates(&stage, &mut worker, 60).await;
    alarm.set(servers, true).await;
    worker.respawn();
    let queue = stage.object("commands");
    eventually("all commands are carried out and acknowledged", async || {
        let list =
            servers.rabbitmqctl(&["-q", "--no-table-headers", "list_queues", "name", "messages"]).await;
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(&queue));
        let left = line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or("?").to_owned();
        match (left.as_str(), tables::inbox(&stage.pool).await.len()) {
            ("0", 61) => Ok(()),
            state => Err(format!("{state:?}")),
        }
    })
    .await;
    assert!(tables::outbox(&stage.pool).await > 0, "nothing could be published");
    alarm.set(servers, false).await;
    eventually("the outbox is empty", async || match tables::outbox(&stage.pool).await {
        0 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    let id = tables::users(&stage.pool).await[0].id.to_string();
    subscriber.wait_for_sequence(&id, 61).await;
    worker.wait_ready().await;
    // The first caller is gone; whoever asks again gets the stored answers.
    let caller = stage.service().await;
    let again: Vec<Request> = updates.iter().map(Request::again).collect();
    for reply in caller.ask_all(&again).await {
        assert_eq!((reply.is_success(), reply.replayed), (true, Some(true)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_commands_pause_while_the_outbox_is_over_its_limit() {
    let (servers, _turn) = private::shared().await;
    let stage = stage_on(servers).await;
    let builder = stage.worker().env("ROSTER_OUTBOX_LIMIT", 20);
    // Little is in hand when it finds the limit passed.
    let mut worker =
        builder.env("ROSTER_PREFETCH", 5).env("ROSTER_BATCH", 5).env("ROSTER_LANES", 1).start().await;
    send_updates(&stage, &mut worker, 300).await;
    Alarm::Memory.set(servers, true).await;
    worker.respawn();
    let connection = broker::connect_to(&stage.amqp_url, "roster-tests depth").await.unwrap();
    let queue = stage.object("commands");
    eventually("nobody consumes while commands wait", async || {
        match broker::depth(&connection, &queue).await {
            Some((ready, 0)) if ready > 0 && tables::outbox(&stage.pool).await > 0 => Ok(()),
            state => Err(format!("{state:?}")),
        }
    })
    .await;
    Alarm::Memory.set(servers, false).await;
    eventually("all are carried out", async || match tables::inbox(&stage.pool).await.len() {
        301 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
}

#[rstest]
#[case::memory(Alarm::Memory)]
#[case::disk(Alarm::Disk)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_an_alarm_in_mid_load_loses_and_repeats_nothing(#[case] alarm: Alarm) {
    let (servers, _turn) = private::shared().await;
    let stage = stage_on(servers).await;
    let mut worker = stage.worker().start().await;
    let run = Run::start(&stage, SMALL).await;
    run.reach(0.3).await;
    alarm.set(servers, true).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    alarm.set(servers, false).await;
    run.finish(&stage, &mut worker).await;
}
