//! `event.list.v1`: a subject's events, as they were published.

use crate::application::dto::{EventPage, EventView};
use crate::application::error::Failure;
use crate::application::ports::NewEvent;
use crate::application::query::EventFilter;

use super::errors;
use super::loan::answered;
use super::shelf::Shelf;

pub async fn list(
    shelf: &Shelf,
    filter: &EventFilter,
    source: &str,
    schema_base: &str,
) -> Result<(Vec<EventView>, EventPage), Failure> {
    let query = sqlx::query!(
        r#"select id, subject, sequence, type as kind, data::text as "data!", occurred_at, causation_id,
            correlation_id, actor, traceparent, tracestate
        from events where subject = $1 and sequence > $2 order by sequence limit $3"#,
        filter.subject,
        filter.after_sequence,
        // One more tells whether there are more.
        filter.limit + 1
    );
    let mut lent = shelf.lend().await?;
    let found = answered(query.fetch_all(lent.connection()?)).await;
    let mut rows = lent.note(found)?;
    let limit = usize::try_from(filter.limit).unwrap_or_default();
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let first_sequence = match rows.first() {
        Some(first) if filter.after_sequence < 1 => Some(first.sequence),
        None if filter.after_sequence < 1 => None,
        _ => {
            let query =
                sqlx::query_scalar!("select min(sequence) from events where subject = $1", filter.subject);
            let found = answered(query.fetch_one(lent.connection()?)).await;
            lent.note(found)?
        }
    };
    let view = |event: &NewEvent| {
        EventView::of(event, source, schema_base)
            .map_err(|_| errors::permanent("an event's data cannot be read"))
    };
    let events = rows
        .into_iter()
        .map(|row| {
            view(&NewEvent {
                id: row.id,
                subject: row.subject,
                sequence: row.sequence,
                kind: row.kind.into(),
                data: row.data,
                occurred_at: row.occurred_at,
                causation_id: row.causation_id,
                correlation_id: row.correlation_id,
                actor: row.actor,
                traceparent: row.traceparent,
                tracestate: row.tracestate,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok((events, EventPage { has_more, first_sequence }))
}
