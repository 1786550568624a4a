//! Commands that failed: kept in the transaction that settles them, taken again when they are due.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::application::error::Failure;
use crate::application::kept::{KeptCommand, KeptReason, Verdict};
use crate::application::message::{MessageKey, Properties};
use crate::application::ports::FailedCommands;

use super::connections::Connections;
use super::errors;
use super::loan::{Loan, answered};
use super::seen::fingerprint;
use super::shelf::Shelf;

/// Keeps them, one statement each: failures are rare.
pub async fn keep(loan: &mut Loan, kept: &[KeptCommand]) -> Result<(), Failure> {
    for command in kept {
        let row = Row::of(command)?;
        let count = if row.message_id.is_some() {
            insert_keyed(loan, &row).await?
        } else {
            insert_keyless(loan, &row).await?
        };
        if count != 1 {
            return loan.note(Err(errors::conflict("another message with the same id was kept meanwhile")));
        }
    }
    Ok(())
}

pub async fn release(loan: &mut Loan, ids: &[Uuid]) -> Result<(), Failure> {
    if ids.is_empty() {
        return Ok(());
    }
    let query = sqlx::query!("delete from failed_commands where id = any($1)", ids);
    let answer = answered(query.execute(loan.connection()?)).await;
    loan.note(answer.map(|_| ()))
}

/// A command as the table has it. U+0000 cannot be stored in text; what shows it is only for people.
struct Row<'a> {
    id: Uuid,
    message_id: Option<Uuid>,
    issued_on: Option<NaiveDate>,
    kind: String,
    actor: &'a str,
    grant: Option<&'a str>,
    properties: String,
    body: &'a [u8],
    fingerprint: &'a [u8],
    reason: &'static str,
    state: &'static str,
    attempts: i32,
    first_error: String,
    last_error: String,
    due_at: Option<DateTime<Utc>>,
}

impl<'a> Row<'a> {
    fn of(command: &'a KeptCommand) -> Result<Self, Failure> {
        // The row of a reused id must not take the place of the message whose id it is.
        let key = command.key.filter(|_| command.reason != KeptReason::MessageIdReused);
        let (state, due_at) = standing(&command.verdict);
        Ok(Self {
            id: command.id,
            message_id: key.map(|key| key.message_id),
            issued_on: key.map(|key| key.issued_on),
            kind: storable(command.properties.kind.as_deref().unwrap_or_default()),
            actor: &command.actor,
            grant: command.grant.as_deref(),
            properties: serde_json::to_string(&command.properties)
                .map_err(|_| errors::permanent("the properties cannot be serialised"))?,
            body: &command.sealed_body,
            fingerprint: &command.fingerprint,
            reason: command.reason.as_str(),
            state,
            attempts: i32::try_from(command.attempts).unwrap_or(i32::MAX),
            first_error: storable(&command.first_error),
            last_error: storable(&command.last_error),
            due_at,
        })
    }
}

fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

const fn standing(verdict: &Verdict) -> (&'static str, Option<DateTime<Utc>>) {
    match verdict {
        Verdict::Retry { due_at } => ("waiting", Some(*due_at)),
        Verdict::Dead => ("dead", None),
    }
}

/// A row that is there already keeps its id and its body, which is sealed for that id.
async fn insert_keyed(loan: &mut Loan, row: &Row<'_>) -> Result<u64, Failure> {
    let query = sqlx::query!(
        r#"insert into failed_commands as kept
            (id, message_id, issued_on, type, actor, actor_grant, properties, body, fingerprint, reason, state,
            attempts, first_error, last_error, due_at)
        values ($1, $2, $3, $4, $5, $6, $7::text::json, $8, $9, $10, $11, $12, $13, $14, $15)
        on conflict (message_id, issued_on) where message_id is not null do update set
            actor = excluded.actor, actor_grant = excluded.actor_grant, properties = excluded.properties,
            reason = excluded.reason, state = excluded.state, attempts = excluded.attempts,
            last_error = excluded.last_error, due_at = excluded.due_at, claimed_until = null,
            updated_at = now()
        where kept.fingerprint = excluded.fingerprint"#,
        row.id,
        row.message_id,
        row.issued_on,
        row.kind,
        row.actor,
        row.grant,
        row.properties,
        row.body,
        row.fingerprint,
        row.reason,
        row.state,
        row.attempts,
        row.first_error,
        row.last_error,
        row.due_at
    );
    let answer = answered(query.execute(loan.connection()?)).await;
    loan.note(answer.map(|done| done.rows_affected()))
}

async fn insert_keyless(loan: &mut Loan, row: &Row<'_>) -> Result<u64, Failure> {
    let query = sqlx::query!(
        r#"insert into failed_commands
            (id, type, actor, actor_grant, properties, body, fingerprint, reason, state, attempts, first_error,
            last_error, due_at)
        values ($1, $2, $3, $4, $5::text::json, $6, $7, $8, $9, $10, $11, $12, $13)
        on conflict (id) do update set
            message_id = null, issued_on = null, reason = excluded.reason, state = excluded.state,
            attempts = excluded.attempts, last_error = excluded.last_error, due_at = excluded.due_at,
            claimed_until = null, updated_at = now()"#,
        row.id,
        row.kind,
        row.actor,
        row.grant,
        row.properties,
        row.body,
        row.fingerprint,
        row.reason,
        row.state,
        row.attempts,
        row.first_error,
        row.last_error,
        row.due_at
    );
    let answer = answered(query.execute(loan.connection()?)).await;
    loan.note(answer.map(|done| done.rows_affected()))
}

/// The failed commands outside a batch's transaction.
#[derive(Debug, Clone)]
pub struct PgFailedCommands {
    shelf: Arc<Shelf>,
}

impl PgFailedCommands {
    #[must_use]
    pub fn new(connections: &Connections) -> Self {
        Self { shelf: Arc::clone(&connections.shelf) }
    }
}

impl FailedCommands for PgFailedCommands {
    async fn due(&self, limit: u32) -> Result<Vec<KeptCommand>, Failure> {
        let query = sqlx::query!(
            r#"with due as (
                select id from failed_commands
                where state = 'waiting' and due_at <= now()
                    and (claimed_until is null or claimed_until < now())
                order by created_at, due_at, id limit $1 for update skip locked
            ), claimed as (
                update failed_commands set claimed_until = now() + interval '1 minute'
                from due where failed_commands.id = due.id
                returning failed_commands.*
            )
            select id, message_id, issued_on, actor, actor_grant, properties::text as "properties!", body,
                fingerprint, reason, attempts, first_error, last_error, due_at as "due_at!"
            from claimed order by created_at, due_at, id"#,
            i64::from(limit)
        );
        let mut lent = self.shelf.lend().await?;
        let rows = answered(query.fetch_all(lent.connection()?)).await;
        lent.note(rows)?
            .into_iter()
            .map(|row| {
                let key = row.message_id.zip(row.issued_on);
                Ok(KeptCommand {
                    id: row.id,
                    key: key.map(|(message_id, issued_on)| MessageKey { message_id, issued_on }),
                    actor: row.actor,
                    grant: row.actor_grant,
                    properties: properties(&row.properties)?,
                    sealed_body: row.body,
                    fingerprint: fingerprint(&row.fingerprint)?,
                    reason: KeptReason::parse(&row.reason).unwrap_or(KeptReason::Failed),
                    attempts: u32::try_from(row.attempts).unwrap_or_default(),
                    first_error: row.first_error,
                    last_error: row.last_error,
                    verdict: Verdict::Retry { due_at: row.due_at },
                })
            })
            .collect()
    }

    async fn judge(&self, id: Uuid, verdict: &Verdict) -> Result<(), Failure> {
        let (state, due_at) = standing(verdict);
        let query = sqlx::query!(
            r#"update failed_commands set state = $2, due_at = $3, claimed_until = null, updated_at = now()
            where id = $1"#,
            id,
            state,
            due_at
        );
        let mut lent = self.shelf.lend().await?;
        let done = answered(query.execute(lent.connection()?)).await;
        lent.note(done).map(|_| ())
    }

    async fn forget(&self, ids: &[Uuid]) -> Result<(), Failure> {
        let query = sqlx::query!("delete from failed_commands where id = any($1)", ids);
        let mut lent = self.shelf.lend().await?;
        let done = answered(query.execute(lent.connection()?)).await;
        lent.note(done).map(|_| ())
    }
}

pub(super) fn properties(json: &str) -> Result<Properties, Failure> {
    serde_json::from_str(json)
        .map_err(|_| errors::permanent("the properties of a kept command cannot be read"))
}
