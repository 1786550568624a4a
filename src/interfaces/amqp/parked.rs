//! Collects what the broker parked in the dead letter queue: into the dead letters, with an answer to the caller.

use std::sync::Arc;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::lanes::Lanes;
use super::session::{Session, SessionError, Ticket};
use super::wire;
use crate::application::judge::Judge;

const PREFETCH: u16 = 16;

/// Consumes `queue` until `stop` is cancelled or the session breaks. Nothing of it is run.
///
/// # Errors
/// [`SessionError`]: the session is over.
pub async fn collect_parked(
    session: &Arc<Session>,
    queue: &str,
    judge: &Judge,
    lanes: &Lanes,
    stop: &CancellationToken,
) -> Result<(), SessionError> {
    let channel = session.channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let acks = Acks::new(channel.clone());
    let mut consumer = channel
        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    loop {
        let mut delivery = tokio::select! {
            delivery = consumer.next() => match delivery {
                Some(delivery) => delivery?,
                None => return Err(SessionError::Cancelled(queue.to_owned())),
            },
            () = stop.cancelled() => return Ok(()),
        };
        let ticket = Ticket::new(session, &acks, delivery.delivery_tag);
        let reason = wire::parked_for(&delivery);
        lanes.submit(judge.parked(wire::raw(&mut delivery), reason), ticket);
    }
}
