//! Sends a plan through all weather and records the history: lost connections are rebuilt, what
//! was not confirmed or not answered is sent again under the same message id.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::RwLock;

use super::caller::Caller;
use super::eventually::{eventually, patiently};
use super::history::{Announced, Got, History, Queue, Sent};
use super::random::Step;
use super::request::{Reply, Request};
use super::stage::Stage;
use super::subscriber::Subscriber;
use super::{PATIENCE, broker, tables};

/// One attempt may take this long from its confirm to its reply before it is sent again.
const ATTEMPT: Duration = Duration::from_secs(20);

/// A caller that does not give up, and what it has lived through.
#[derive(Debug)]
pub struct Load {
    namespace: String,
    url: String,
    link: RwLock<Option<Link>>,
    links: AtomicU64,
    history: Mutex<History>,
    /// By which link each attempt of the history went out.
    sent_by: Mutex<Vec<u64>>,
    /// Steps that are done: answered, or confirmed where no answer is due.
    pub done: AtomicUsize,
    /// For one command, from its first attempt on.
    pub limit: Duration,
    /// For the reply to one attempt, before the next.
    pub attempt: Duration,
    /// For everything to be drained after the last command.
    pub drain: Duration,
}

/// A connection, and its number.
#[derive(Clone, Debug)]
struct Link {
    number: u64,
    caller: Arc<Caller>,
}

impl Load {
    pub fn new(stage: &Stage, seed: u64) -> Self {
        Self::through(&stage.namespace, stage.amqp_url.clone(), seed)
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
            sent_by: Mutex::default(),
            done: AtomicUsize::new(0),
            limit: Duration::from_secs(180),
            attempt: ATTEMPT,
            drain: PATIENCE,
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

    /// Sends steps at `rate` per second, in order and round about `window` at a time, until told to
    /// stop; returns when what it sent is done.
    pub async fn drive_until(&self, steps: &[Step], window: usize, rate: u32, stop: &AtomicBool) {
        let pause = Duration::from_secs(1) / rate;
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let paced = futures_util::stream::unfold((steps.iter(), ticks), |(mut rest, mut ticks)| async move {
            ticks.tick().await;
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let step = rest.next()?;
            Some((step, (rest, ticks)))
        });
        paced
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
            let Some(link) = self.link().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let index = self.note(step, &request, link.number);
            let caller = &link.caller;
            let taken = confirm(caller, &request).await;
            let confirmed = taken == Some(true);
            self.edit(index, |sent| sent.confirmed = confirmed);
            if taken == Some(false) {
                // As callers should: it may be this channel alone that is refused.
                self.forget(&link).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if confirmed && request.reply_to.is_none() {
                return;
            }
            if confirmed && let Some(reply) = answer(caller, &request, self.attempt).await {
                self.got(reply);
                return;
            }
            if !caller.connection.status().connected() {
                self.forget(&link).await;
            }
            request = request.again();
        }
        let id = step.request.message_id.clone().unwrap_or_default();
        panic!("{:?} {id} is not done after {:?}", step.request.kind, self.limit);
    }

    /// The current connection, or a new one; `None` while the broker cannot be reached.
    async fn link(&self) -> Option<Link> {
        if let Some(link) = self.link.read().await.as_ref() {
            return Some(link.clone());
        }
        let mut link = self.link.write().await;
        if link.is_none() {
            let connecting = Caller::try_connect(&self.url, &self.namespace, None);
            let connected = tokio::time::timeout(Duration::from_secs(10), connecting).await;
            let number = self.links.fetch_add(1, Ordering::Relaxed);
            *link = connected.ok()?.ok().map(|caller| Link { number, caller: Arc::new(caller) });
        }
        link.clone()
    }

    /// Where a connection died or is given up, its reply queue goes with it, and no answer is due any more.
    async fn forget(&self, gone: &Link) {
        self.take_stragglers(&gone.caller);
        {
            let mut history = self.history.lock().expect("the history");
            let sent_by = self.sent_by.lock().expect("the links");
            let sent = history.sent.iter_mut().zip(sent_by.iter());
            for (sent, _) in sent.filter(|(_, number)| **number == gone.number) {
                sent.reply_expected = false;
            }
        }
        let mut link = self.link.write().await;
        if link.as_ref().is_some_and(|current| current.number == gone.number) {
            *link = None;
        }
    }

    fn note(&self, step: &Step, request: &Request, link: u64) -> usize {
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
        self.sent_by.lock().expect("the links").push(link);
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

    /// Attempts whose answers are due and have not come.
    fn unanswered(&self) -> usize {
        let history = self.history.lock().expect("the history");
        let got: HashSet<&str> = history.got.iter().map(|got| got.correlation.as_str()).collect();
        let due = history.sent.iter().filter(|sent| sent.confirmed && sent.reply_expected);
        due.filter(|sent| !got.contains(sent.correlation.as_str())).count()
    }

    /// Waits until all is drained, then reads everything back: a history to be judged. What is still
    /// missing after that wait is for the checker to say.
    pub async fn settle(self, stage: &Stage, subscriber: &Subscriber) -> History {
        let late = |what: &str, missing: Result<(), String>| {
            if let Err(missing) = missing {
                eprintln!("{what}: not within {:?}: {missing}", self.drain);
            }
        };
        late("queues and outbox are empty", drained(stage, self.drain).await);
        let answered = patiently(self.drain, async || {
            if let Some(link) = self.link.read().await.as_ref() {
                self.take_stragglers(&link.caller);
            }
            match self.unanswered() {
                0 => Ok(()),
                count => Err(format!("{count} have none")),
            }
        });
        late("every attempt has its answer", answered.await);
        let events = tables::events(&stage.pool).await;
        let known: HashSet<String> = events.iter().map(|event| event.id.to_string()).collect();
        let seen = patiently(self.drain, async || {
            let mut missing = known.clone();
            for event in subscriber.seen() {
                missing.remove(&event.id);
            }
            match missing.len() {
                0 => Ok(()),
                count => Err(format!("{count} of {} are missing", known.len())),
            }
        });
        late("every logged event is seen", seen.await);
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
    drained(stage, PATIENCE).await.expect("queues and outbox are empty");
}

async fn drained(stage: &Stage, limit: Duration) -> Result<(), String> {
    let mut hurried: Option<Instant> = None;
    patiently(limit, async || {
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
    .await
}

async fn queues(stage: &Stage) -> Vec<Queue> {
    let connection = broker::connect_to(&stage.amqp_url, "roster-tests depth").await;
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

/// Whether the broker took it; `None` where it did not say.
async fn confirm(caller: &Caller, request: &Request) -> Option<bool> {
    let publish = async { caller.publish(request).await?.await };
    match tokio::time::timeout(ATTEMPT, publish).await {
        Ok(Ok(confirm)) => Some(confirm.is_ack()),
        _ => None,
    }
}

/// The reply, unless it takes too long or the connection dies meanwhile.
async fn answer(caller: &Caller, request: &Request, limit: Duration) -> Option<Reply> {
    let key = request.correlation_key();
    let start = Instant::now();
    while start.elapsed() < limit {
        let reply = caller.reply_within(&key, Duration::from_millis(500)).await;
        if reply.is_some() || !caller.connection.status().connected() {
            return reply;
        }
    }
    None
}
