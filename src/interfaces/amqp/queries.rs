//! Answers queries: on a connection of their own, many at a time, at most once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::Connection;
use lapin::message::Delivery;
use metrics::{counter, histogram};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acks::Acks;
use super::answers::Answers;
use super::dial::Dial;
use super::replies::Outgoing;
use super::session::{SessionError, answered, consume};
use super::wire::{self, reply_properties};
use crate::application::decide::error_body;
use crate::application::error::Code;
use crate::application::judge::Judge;
use crate::application::message::Trace;

/// How many queries are answered at a time.
const PREFETCH: u16 = 256;

/// For the broker to take an answer: as long as a query waits in its queue.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Consumes `queue` until `stop` is cancelled or the connection breaks, and calls `ready` once it does. Answers leave
/// by connections of their own, which are opened anew where the broker has closed one.
///
/// # Errors
/// [`SessionError`]: the connection is to be opened anew.
pub async fn answer_queries(
    connection: &Connection,
    answering: Dial,
    queue: &str,
    judge: &Arc<Judge>,
    tracker: &TaskTracker,
    stop: &CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), SessionError> {
    let channel = answered(connection.create_channel()).await?;
    let mut answers = Arc::new(Answers::open(&answering).await?);
    let mut consumer = consume(&channel, queue, PREFETCH).await?;
    ready();
    let (acks, gathering) = Acks::new(channel.clone()).gather();
    let begun = TaskTracker::new();
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => match delivery {
                Some(delivery) => delivery?,
                None => return Err(SessionError::Cancelled(queue.to_owned())),
            },
            () = stop.cancelled() => break,
        };
        if !answers.stand() {
            answers = Arc::new(Answers::open(&answering).await?);
        }
        let done = Done { tag: delivery.delivery_tag, acks: acks.clone() };
        let (answers, judge) = (Arc::clone(&answers), Arc::clone(judge));
        tracker.spawn(begun.track_future(async move {
            answer(delivery, &answers, &judge).await;
            drop(done);
        }));
    }
    // What was taken is still to be answered, on the connections that close when this returns.
    begun.close();
    begun.wait().await;
    drop(acks);
    // It ends once the last ack is written; an error would say that it panicked.
    drop(gathering.await);
    Ok(())
}

/// A query that is to be acknowledged however it ends.
struct Done {
    tag: u64,
    acks: UnboundedSender<u64>,
}

impl Drop for Done {
    fn drop(&mut self) {
        // Whoever acknowledges ends after this, unless the runtime ends.
        let _ = self.acks.send(self.tag);
    }
}

async fn answer(mut delivery: Delivery, answers: &Answers, judge: &Judge) {
    let received = Instant::now();
    let raw = wire::raw(&mut delivery);
    let answered = judge.query(&raw).await;
    let code = match &answered {
        None => "NOBODY_ASKED",
        Some(answered) => answered.code().map_or("", Code::as_str),
    };
    counter!(crate::metrics::QUERIES, "code" => code).increment(1);
    if let Some(answered) = answered {
        if let Some(failure) = &answered.failure {
            tracing::warn!(message.r#type = raw.properties.kind, failure, "a query failed");
        }
        let body = answered.body.unwrap_or_else(|refusal| error_body(&refusal));
        let correlation_id =
            raw.properties.correlation_id.as_deref().or(raw.properties.message_id.as_deref());
        let properties = reply_properties(correlation_id, &Trace::read(&raw.properties), false);
        let outgoing = Outgoing { reply_to: answered.reply_to, properties, body };
        // A broker that is out of memory or disk takes nothing, and the query's own time is over by then.
        match tokio::time::timeout(TAKEN_WITHIN, answers.send(outgoing)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "an answer could not be published"),
            Err(_) => tracing::warn!("an answer was not taken by the broker in time"),
        }
    }
    histogram!(crate::metrics::QUERY_SECONDS).record(received.elapsed());
}
