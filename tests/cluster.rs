//! Servers that stand more than once: a broker of three nodes that are killed and cut off, and a Postgres whose
//! standby takes over. Each test has servers of its own.
//!
//! Everybody has one address for each, as behind a load balancer: a proxy leads to the first node that takes the
//! connection, or to whoever is the primary.

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::support::private::{self, Private};
use crate::support::proxy::Proxy;
use crate::support::random::Mix;
use crate::support::run::Run;
use crate::support::{PATIENCE, Stage, Worker, broker, database, eventually};

/// More than is sent: a steady load ends when the test does.
const MIX: Mix = Mix { users: 12, commands: 8_000, wide: false };
const PER_SECOND: u32 = 60;

/// Why a part of a worker is not ready; `None` while it is.
async fn trouble(worker: &mut Worker, part: &str) -> Result<Option<String>, String> {
    let (_, body) = worker.get("/readyz").await?;
    let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    Ok(body["components"][part]["reason"].as_str().map(str::to_owned))
}

/// How often a worker's consumer of commands has come up, by its log.
fn beginnings(worker: &Worker) -> usize {
    let log = worker.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["component"] == "commands" && line["message"] == "ready").count()
}

/// Waits until it consumes commands on a session that was not there before.
async fn consumes_again(worker: &mut Worker, before: usize) {
    eventually("it consumes commands again", async || {
        match (beginnings(worker), trouble(worker, "commands").await?) {
            (now, None) if now > before => Ok(()),
            (now, why) => Err(format!("{now} sessions so far; {why:?}")),
        }
    })
    .await;
}

async fn running_nodes(servers: &Private) -> String {
    let count = "length(rabbit_nodes:all_running()).";
    servers.rabbitmqctl(&["-1", "-q", "eval", count]).await.trim().to_owned()
}

/// The node that leads a quorum queue, while all are up.
async fn leader(servers: &Private, queue: &str) -> String {
    let list = ["-q", "--no-table-headers", "list_queues", "name", "leader"];
    let list = servers.rabbitmqctl(&list).await;
    let mut lines = list.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let node = lines.find(|(name, _)| *name == queue).map(|(_, node)| node.trim());
    let node = node.and_then(|node| node.split_once("rabbitmq")?.1.split('@').next());
    format!("rabbitmq{}", node.unwrap_or_else(|| panic!("no leader of {queue} in {list}")))
}

/// A node's own address takes no connection.
async fn refuses(address: &str) {
    eventually("the node takes no connection", async || {
        match tokio::net::TcpStream::connect(address).await {
            Ok(_) => Err("it does".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
}

/// It prefers one of the nodes, and goes on to the next.
async fn balancer(nodes: &[String; 3], first: usize) -> Proxy {
    let mut order = nodes.to_vec();
    order.rotate_left(first);
    Proxy::before(order).await
}

/// What everybody sees of a fault.
fn tell(fault: &str, what: &str, time: Duration) {
    eprintln!("{fault}: {what} {:.1} s", time.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_45_a_broker_that_loses_nodes_pauses_and_loses_no_command() {
    let (servers, nodes) = Private::cluster();
    let [one, two] = [balancer(&nodes, 0).await, balancer(&nodes, 1).await];
    let url = broker::through(&servers.amqp_url, one.address);
    let stage = Stage::on_servers(url, database::server_url()).await;
    // The first declares the objects, so that they are at home on its node; the callers are there too. So what
    // they have sent when that is killed has replies that lead nowhere.
    let mut first = stage.worker().amqp_via(one.address).start().await;
    let mut second = stage.worker().amqp_via(two.address).start().await;
    let run = Run::steady(&stage, MIX, PER_SECOND).await;
    run.more(60).await;

    assert_eq!(leader(&servers, &stage.object("commands")).await, "rabbitmq1");
    let fault = "leader of the commands killed";
    let before = beginnings(&first);
    let begun = Instant::now();
    let ((), pause) = run
        .longest_pause(async {
            servers.ctl("rabbitmq1", "kill").await;
            consumes_again(&mut first, before).await;
            tell(fault, "its consumer is back after", begun.elapsed());
            run.more(60).await;
        })
        .await;
    tell(fault, "longest pause", pause);
    // The queries' queue went with its node. Both say so, and one that starts now does not take it for a mismatch.
    let mut third = stage.worker().amqp_via(one.address).spawn();
    for worker in [&mut first, &mut second, &mut third] {
        eventually("it says that the queries' queue is away, and consumes commands", async || {
            match (trouble(worker, "queries").await?, trouble(worker, "commands").await?) {
                (Some(why), None) if why.contains("is down") => Ok(()),
                state => Err(format!("{state:?}")),
            }
        })
        .await;
    }
    let shown = stage.cli(&["topology", "show"]);
    let away = format!("queue {}: cannot be used at the moment", stage.object("queries"));
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&away), "{shown:?}");
    let asked = stage.cli(&["query", "user.list.v1", "{}"]);
    assert!(String::from_utf8_lossy(&asked.stderr).contains("cannot be used at the moment"), "{asked:?}");
    third.terminate();
    assert_eq!(third.wait_exit(PATIENCE).await.code(), Some(0));
    servers.ctl("rabbitmq1", "start").await;
    let begun = Instant::now();
    first.wait_ready().await;
    second.wait_ready().await;
    tell(fault, "the node is back: all ready after", begun.elapsed());

    let fault = "one node cut off";
    let before = beginnings(&second);
    let begun = Instant::now();
    let ((), pause) = run
        .longest_pause(async {
            servers.run("partition", &["rabbitmq2"]).await;
            refuses(&nodes[1]).await;
            consumes_again(&mut second, before).await;
            tell(fault, "its consumer is back after", begun.elapsed());
            run.more(60).await;
        })
        .await;
    tell(fault, "longest pause", pause);
    let ((), pause) = run
        .longest_pause(async {
            servers.run("heal", &[]).await;
            eventually("the cluster is whole", async || match running_nodes(&servers).await {
                count if count == "3" => Ok(()),
                count => Err(format!("{count} nodes")),
            })
            .await;
            first.wait_ready().await;
            second.wait_ready().await;
            run.more(60).await;
        })
        .await;
    tell(fault, "healed: longest pause", pause);

    let fault = "two of three down";
    tokio::join!(servers.ctl("rabbitmq1", "kill"), servers.ctl("rabbitmq3", "kill"));
    refuses(&nodes[1]).await;
    for worker in [&mut first, &mut second] {
        eventually("it says that it consumes nothing", async || match trouble(worker, "commands").await? {
            Some(_) => Ok(()),
            None => Err("it does".to_owned()),
        })
        .await;
    }
    let begun = Instant::now();
    tokio::join!(servers.ctl("rabbitmq1", "start"), servers.ctl("rabbitmq3", "start"));
    tell(fault, "started again in", begun.elapsed());
    let begun = Instant::now();
    run.more(10).await;
    tell(fault, "commands go on, after that, within", begun.elapsed());
    first.wait_ready().await;
    second.wait_ready().await;
    tell(fault, "all ready after", begun.elapsed());
    run.more(60).await;

    second.terminate();
    assert_eq!(second.wait_exit(PATIENCE).await.code(), Some(0));
    run.finish(&stage, &mut first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_takes_over_has_every_confirmed_command() {
    let servers = Private::up();
    let urls = servers.run("standby", &[]).await;
    let standby = private::exported(&urls, "STANDBY_URL");
    let primary = Proxy::start(&broker::address(&servers.server_url)).await;
    let server_url = broker::through(&servers.server_url, primary.address);
    let stage = Stage::on_servers(broker::url(), server_url).await;
    let (mut worker, mut other) = (stage.worker().start().await, stage.worker().start().await);
    let run = Run::steady(&stage, MIX, PER_SECOND).await;
    run.more(200).await;

    // The standby falls behind, and then the primary is lost: what had to wait for it was not confirmed. Killed,
    // because one that is only frozen finds what it missed in its socket.
    servers.ctl("standby", "kill").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = Instant::now();
    servers.ctl("postgres", "kill").await;
    servers.ctl("standby", "start").await;
    servers.run("promote", &[]).await;
    primary.switch(&broker::address(&standby));
    tell("primary lost", "the standby takes writes after", begun.elapsed());
    let begun = Instant::now();
    run.more(10).await;
    tell("primary lost", "commands go on, after that, within", begun.elapsed());
    worker.wait_ready().await;
    other.wait_ready().await;
    tell("primary lost", "all ready after", begun.elapsed());
    let mut session = PgConnection::connect(&standby).await.unwrap();
    let waits: String =
        sqlx::query_scalar("show synchronous_standby_names").fetch_one(&mut session).await.unwrap();
    assert_eq!(waits, "", "it has no standby of its own to wait for");
    run.more(100).await;

    other.terminate();
    assert_eq!(other.wait_exit(PATIENCE).await.code(), Some(0));
    run.finish(&stage, &mut worker).await;
}
