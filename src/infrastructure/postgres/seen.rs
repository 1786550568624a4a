//! What is known of messages handled before: the inbox, and the commands that failed.

use crate::application::error::Failure;
use crate::application::kept::KeptReason;
use crate::application::message::{Fingerprint, MessageKey};
use crate::application::ports::{Known, Seen};

use super::errors;
use super::loan::{Loan, answered};

/// An answer wins over a failure that was kept.
pub async fn seen(loan: &mut Loan, keys: &[MessageKey]) -> Result<Vec<Seen>, Failure> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = keys.iter().map(|key| key.message_id).collect();
    let days: Vec<_> = keys.iter().map(|key| key.issued_on).collect();
    // The lateral joins make one index probe per key, in the one partition of its day.
    let query = sqlx::query!(
        r#"select k.message_id as "message_id!", k.issued_on as "issued_on!", found.type as "message_type!",
            found.actor as "actor!", found.fingerprint as "fingerprint!", found.answer, found.state, found.reason, found.row
        from unnest($1::uuid[], $2::date[]) as k (message_id, issued_on)
        cross join lateral (
            select i.type, i.actor, i.fingerprint, i.answer, null as state, null as reason,
                null::uuid as row, 0 as rank
            from inbox i
            where i.message_id = k.message_id and i.issued_on = k.issued_on
            union all
            select f.type, f.actor, f.fingerprint, null, f.state, f.reason, f.id, 1 from failed_commands f
            where f.message_id = k.message_id and f.issued_on = k.issued_on
            order by rank limit 1
        ) as found"#,
        &ids,
        &days
    );
    let rows = answered(query.fetch_all(loan.connection()?)).await;
    loan.note(rows)?
        .into_iter()
        .map(|row| {
            Ok(Seen {
                key: MessageKey { message_id: row.message_id, issued_on: row.issued_on },
                message_type: row.message_type,
                actor: row.actor,
                fingerprint: fingerprint(&row.fingerprint)?,
                known: match (row.answer, row.state.as_deref(), row.row) {
                    (Some(answer), _, _) => Known::Answer(answer.into()),
                    (None, Some("waiting"), Some(row)) => Known::Waiting(row),
                    _ => Known::Dead(row.reason.as_deref().map_or(KeptReason::Failed, reason)),
                },
            })
        })
        .collect()
}

/// A reason that only a newer worker knows is a failure to this one.
pub fn reason(text: &str) -> KeptReason {
    KeptReason::parse(text).unwrap_or(KeptReason::Failed)
}

/// # Errors
/// Where the column does not hold 32 bytes.
pub fn fingerprint(bytes: &[u8]) -> Result<Fingerprint, Failure> {
    bytes.try_into().map_err(|_| errors::permanent("a fingerprint has not 32 bytes"))
}
