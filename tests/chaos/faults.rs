//! The faults of the chaos run: three loops at once, each with randomness of its own from the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::prelude::*;
use roster::failpoint::NAMES;

use crate::support::load::Load;
use crate::support::private::Private;
use crate::support::proxy::Proxy;
use crate::support::{Stage, Worker, tables};

const FAILPOINT: &str = "ROSTER_FAILPOINT";

/// What was done, and how long it took to be well again.
#[derive(Debug, Default)]
pub struct Record {
    faults: Mutex<BTreeMap<String, u32>>,
    recoveries: Mutex<BTreeMap<String, Vec<Duration>>>,
}

impl Record {
    pub fn fault(&self, kind: impl Into<String>) {
        *self.faults.lock().unwrap().entry(kind.into()).or_default() += 1;
    }

    pub fn recovered(&self, from: impl Into<String>, after: Duration) {
        self.recoveries.lock().unwrap().entry(from.into()).or_default().push(after);
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults injected:")?;
        for (kind, count) in self.faults.lock().unwrap().iter() {
            writeln!(f, "{count:>7}  {kind}")?;
        }
        writeln!(f, "recovery times (median, longest, how many):")?;
        for (from, times) in self.recoveries.lock().unwrap().iter_mut() {
            times.sort();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let longest = times.last().copied().unwrap_or_default();
            writeln!(
                f,
                "{:>7.2} s {:>7.2} s {:>5}  {from}",
                median.as_secs_f64(),
                longest.as_secs_f64(),
                times.len()
            )?;
        }
        Ok(())
    }
}

/// What the faults are done to.
pub struct Scene {
    pub servers: &'static Private,
    pub stage: Arc<Stage>,
    pub load: Arc<Load>,
    pub record: Arc<Record>,
    pub end: Instant,
    pub seed: u64,
}

impl Scene {
    /// The load, once nobody else has it.
    pub fn give_back(self, load: Arc<Load>) -> Load {
        drop(self.load);
        Arc::into_inner(load).expect("the load is over")
    }

    fn rng(&self, part: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(31).wrapping_add(part))
    }

    fn over(&self) -> bool {
        Instant::now() >= self.end
    }

    async fn pause(&self, rng: &mut StdRng, millis: std::ops::Range<u64>) {
        let pause = Duration::from_millis(rng.random_range(millis));
        let left = self.end.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(left)).await;
    }

    /// Kills, evenly spread, one worker or the other: at random, or at the failpoints in turn.
    pub async fn kill_workers(&self, mut workers: Vec<Worker>, kills: u32) -> Vec<Worker> {
        let mut rng = self.rng(1);
        let begun = Instant::now();
        let interval = self.end.saturating_duration_since(begun) / kills.max(1);
        let mut names = NAMES.iter().cycle();
        let mut done = 0;
        while done < kills && !self.over() {
            let due = begun + interval * done + interval.mul_f64(rng.random_range(0.0..0.8));
            tokio::time::sleep_until(due.into()).await;
            let index = rng.random_range(0..workers.len());
            let worker = &mut workers[index];
            match rng.random_range(0..20) {
                0 => {
                    let frozen = Duration::from_millis(rng.random_range(500..13_000));
                    worker.freeze();
                    tokio::time::sleep(frozen.min(interval * 4)).await;
                    worker.thaw();
                    self.record.fault("worker frozen and thawed");
                    continue;
                }
                1..9 => {
                    let name = names.next().expect("a failpoint");
                    let count = rng.random_range(1..4);
                    worker.set(FAILPOINT, format!("{name}:{count}"));
                    worker.respawn();
                    self.record.fault("kill -9, then armed with a failpoint");
                    done += 1;
                    let patience =
                        Instant::now() + interval.clamp(Duration::from_secs(3), Duration::from_secs(6));
                    while worker.is_running() && Instant::now() < patience {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    match worker.is_running() {
                        true => self.record.fault(format!("kill -9, not come by {name}")),
                        false => self.record.fault(format!("killed at {name}")),
                    }
                    worker.unset(FAILPOINT);
                }
                _ => self.record.fault("kill -9"),
            }
            worker.respawn();
            done += 1;
            self.time_to_ready(worker, interval).await;
        }
        workers
    }

    async fn time_to_ready(&self, worker: &mut Worker, limit: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if matches!(worker.get("/readyz").await, Ok((200, _))) {
                self.record.recovered("worker ready after its kill", begun.elapsed());
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Latency, slices, resets, cuts, half-open and silent connections, sessions ended.
    pub async fn trouble_the_network(&self, database: Proxy, rabbit: Proxy) -> (Proxy, Proxy) {
        let mut rng = self.rng(2);
        while !self.over() {
            self.pause(&mut rng, 1_000..8_000).await;
            let (name, proxy) = match rng.random_bool(0.5) {
                true => ("Postgres", &database),
                false => ("the broker", &rabbit),
            };
            let kind = match rng.random_range(0..10) {
                0..4 => {
                    proxy.reset();
                    "connections reset"
                }
                4 => {
                    proxy.cut_after(rng.random_range(1..20_000));
                    "connection cut in mid-frame"
                }
                5 => {
                    proxy.latency(Duration::from_millis(rng.random_range(5..120)));
                    self.pause(&mut rng, 1_000..4_000).await;
                    "latency"
                }
                6 => {
                    proxy.slice(rng.random_range(1..200));
                    self.pause(&mut rng, 1_000..4_000).await;
                    "sliced packets"
                }
                7 => {
                    proxy.black_hole();
                    self.pause(&mut rng, 500..4_000).await;
                    "silence"
                }
                8 => {
                    proxy.strand();
                    "half-open connections"
                }
                _ => {
                    proxy.refuse();
                    proxy.reset();
                    self.pause(&mut rng, 300..3_000).await;
                    "away"
                }
            };
            proxy.heal();
            self.record.fault(format!("{kind}: {name}"));
        }
        (database, rabbit)
    }

    /// Both servers restarted, in every way, and sessions ended by an operator.
    pub async fn restart_servers(&self) {
        let mut rng = self.rng(3);
        // So that each is done in a short run too.
        let mut ways = [
            ("postgres", "immediate"),
            ("rabbitmq", "immediate"),
            ("postgres", "restart"),
            ("rabbitmq", "restart"),
            ("postgres", "terminate"),
            ("rabbitmq", "close"),
        ];
        ways[..2].shuffle(&mut rng);
        for (server, action) in ways.iter().cycle() {
            self.pause(&mut rng, 1_500..4_000).await;
            if self.over() {
                return;
            }
            match *action {
                "terminate" => drop(tables::try_terminate_backends(&self.stage.pool).await),
                "close" => {
                    self.servers.rabbitmqctl(&["-q", "close_all_connections", "chaos"]).await;
                }
                action => {
                    self.servers.ctl(server, action).await;
                }
            }
            self.record.fault(format!("{server}: {action}"));
            self.time_to_progress(&format!("progress after {server} {action}")).await;
            // A longer run has longer rests between them.
            let left = self.end.saturating_duration_since(Instant::now());
            if left > Duration::from_secs(60) {
                self.pause(&mut rng, 5_000..20_000).await;
            }
        }
    }

    async fn time_to_progress(&self, what: &str) {
        let begun = Instant::now();
        let before = self.load.done.load(Ordering::Relaxed);
        while !self.over() {
            if self.load.done.load(Ordering::Relaxed) > before + 5 {
                self.record.recovered(what, begun.elapsed());
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
