//! Sends a plan through all weather and records the history: lost connections are rebuilt, what
//! was not confirmed or not answered is sent again under the same message id.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::RwLock;

use super::caller::Caller;
use super::eventually::eventually;
use super::history::{Announced, Got, History, Queue, Sent};
use super::random::Step;
use super::request::{Reply, Request};
use super::stage::Stage;
use super::subscriber::Subscriber;
use super::{broker, tables};

/// One attempt may take this long from its confirm to its reply before it is sent again.
const ATTEMPT: Duration = Duration::from_secs(20);

/// A caller that does not give up, and what it has lived through.
#[derive(Debug)]
pub struct Load {
    namespace: String,
    url: String,
    link: RwLock<Option<Arc<Caller>>>,
    links: AtomicU64,
    history: Mutex<History>,
    /// Steps that are done: answered, or confirmed where no answer is due.
    pub done: AtomicUsize,
    limit: Duration,
}

impl Load {
    pub fn new(stage: &Stage, seed: u64) -> Self {
        Self::through(&stage.namespace, broker::url(), seed)
    }

    /// A load on any broker address.
    pub fn through(namespace: &str, url: String, seed: u64) -> Self {
        let history = History { seed, ..History::default() };
        Self {
            namespace: namespace.to_owned(),
            url,
            link: RwLock::new(None),
            links: AtomicU64::new(0),
            history: Mutex::new(history),
            done: AtomicUsize::new(0),
            limit: Duration::from_secs(180),
        }
    }

    /// Sends every step, `window` of them at a time, and returns when all are done.
    pub async fn drive(&self, steps: &[Step], window: usize) {
        futures_util::stream::iter(steps)
            .for_each_concurrent(window, |step| async move {
                self.see_through(step).await;
                self.done.fetch_add(1, Ordering::Relaxed);
            })
            .await;
    }

    /// Waits until `count` steps are done.
    pub async fn wait_done(&self, count: usize) {
        eventually(&format!("{count} commands are done"), async || match self.done.load(Ordering::Relaxed) {
            done if done >= count => Ok(()),
            done => Err(format!("{done} so far")),
        })
        .await;
    }

    async fn see_through(&self, step: &Step) {
        let start = Instant::now();
        let mut request = step.request.clone();
        while start.elapsed() < self.limit {
            let Some(caller) = self.caller().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let index = self.note(step, &request);
            let confirmed = confirm(&caller, &request).await;
            self.edit(index, |sent| sent.confirmed = confirmed);
            if confirmed && request.reply_to.is_none() {
                return;
            }
            if confirmed && let Some(reply) = answer(&caller, &request).await {
                self.got(reply);
                return;
            }
            // Where the connection died, its reply queue died with it.
            let gone = !caller.connection.status().connected();
            if gone {
                self.edit(index, |sent| sent.reply_expected = false);
                self.forget(&caller).await;
            }
            request = request.again();
        }
        let id = step.request.message_id.clone().unwrap_or_default();
        panic!("{:?} {id} is not done after {:?}", step.request.kind, self.limit);
    }

    /// The current connection, or a new one; `None` while the broker cannot be reached.
    async fn caller(&self) -> Option<Arc<Caller>> {
        if let Some(caller) = self.link.read().await.as_ref() {
            return Some(Arc::clone(caller));
        }
        let mut link = self.link.write().await;
        if link.is_none() {
            let connecting = Caller::try_connect(&self.url, &self.namespace, None);
            let connected = tokio::time::timeout(Duration::from_secs(10), connecting).await;
            *link = connected.ok()?.ok().map(Arc::new);
            self.links.fetch_add(1, Ordering::Relaxed);
        }
        link.clone()
    }

    async fn forget(&self, caller: &Arc<Caller>) {
        self.take_stragglers(caller);
        let mut link = self.link.write().await;
        if link.as_ref().is_some_and(|current| Arc::ptr_eq(current, caller)) {
            *link = None;
        }
    }

    fn note(&self, step: &Step, request: &Request) -> usize {
        let sent = Sent {
            message_id: request.message_id.clone().unwrap_or_default(),
            kind: request.kind.clone().unwrap_or_default(),
            content: format!("{} by {:?}", String::from_utf8_lossy(&request.body), request.user_id),
            correlation: request.correlation_key(),
            confirmed: false,
            reply_expected: request.reply_to.is_some(),
            judged: step.judged,
        };
        let mut history = self.history.lock().expect("the history");
        history.sent.push(sent);
        history.sent.len() - 1
    }

    fn edit(&self, index: usize, edit: impl FnOnce(&mut Sent)) {
        let mut history = self.history.lock().expect("the history");
        edit(&mut history.sent[index]);
    }

    fn got(&self, reply: Reply) {
        let got = Got {
            correlation: reply.correlation_id.unwrap_or_default(),
            replayed: reply.replayed,
            body: reply.body,
        };
        self.history.lock().expect("the history").got.push(got);
    }

    fn take_stragglers(&self, caller: &Caller) {
        for reply in caller.drain() {
            self.got(reply);
        }
    }

    /// Waits until all is drained, then reads everything back: a history to be judged.
    pub async fn settle(self, stage: &Stage, subscriber: &Subscriber) -> History {
        settled(stage).await;
        let events = tables::events(&stage.pool).await;
        let known: HashSet<String> = events.iter().map(|event| event.id.to_string()).collect();
        eventually("every logged event is seen", async || {
            let mut missing = known.clone();
            for event in subscriber.seen() {
                missing.remove(&event.id);
            }
            match missing.len() {
                0 => Ok(()),
                count => Err(format!("{count} of {} are missing", known.len())),
            }
        })
        .await;
        if let Some(caller) = self.link.write().await.take() {
            self.take_stragglers(&caller);
        }
        let seen = subscriber.seen().into_iter();
        History {
            users: tables::users(&stage.pool).await,
            inbox: tables::inbox(&stage.pool).await,
            failed: tables::failed(&stage.pool).await,
            outbox: Some(tables::outbox(&stage.pool).await),
            queues: queues(stage).await,
            idle_in_transaction: Some(tables::idle_in_transaction(&stage.pool).await),
            events,
            announced: seen
                .map(|event| Announced {
                    data: event.body["data"].clone(),
                    subject: event.subject,
                    sequence: event.sequence,
                    id: event.id,
                    kind: event.kind,
                })
                .collect(),
            ..self.history.into_inner().expect("the history")
        }
    }
}

/// Waits until queues and outbox are empty and nothing waits to be tried again.
pub async fn settled(stage: &Stage) {
    let mut hurried: Option<Instant> = None;
    eventually("queues and outbox are empty", async || {
        for queue in queues(stage).await {
            if queue.ready > 0 || queue.consumers == 0 {
                return Err(format!("{queue:?}"));
            }
        }
        // Not all the time: what is just being tried again is not to be taken once more.
        if hurried.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
            tables::hurry(&stage.pool).await;
            hurried = Some(Instant::now());
        }
        let waiting = tables::failed(&stage.pool).await;
        let waiting = waiting.iter().filter(|row| row.state == "waiting").count();
        match (tables::outbox(&stage.pool).await, waiting) {
            (0, 0) => Ok(()),
            state => Err(format!("outbox and waiting commands: {state:?}")),
        }
    })
    .await;
}

async fn queues(stage: &Stage) -> Vec<Queue> {
    let connection = broker::connect("roster-tests depth").await;
    let connection = connection.expect("a connection to look at the queues");
    let mut queues = Vec::new();
    for name in ["commands", "queries", "dead"] {
        let name = stage.object(name);
        let (ready, consumers) = broker::depth(&connection, &name).await.unwrap_or((0, 0));
        queues.push(Queue { name, ready, consumers });
    }
    let _ = connection.close(200, "done".into()).await;
    queues
}

async fn confirm(caller: &Caller, request: &Request) -> bool {
    let publish = async { caller.publish(request).await?.await };
    match tokio::time::timeout(ATTEMPT, publish).await {
        Ok(Ok(confirm)) => confirm.is_ack(),
        _ => false,
    }
}

/// The reply, unless it takes too long or the connection dies meanwhile.
async fn answer(caller: &Caller, request: &Request) -> Option<Reply> {
    let key = request.correlation_key();
    let start = Instant::now();
    while start.elapsed() < ATTEMPT {
        let reply = caller.reply_within(&key, Duration::from_millis(500)).await;
        if reply.is_some() || !caller.connection.status().connected() {
            return reply;
        }
    }
    None
}
