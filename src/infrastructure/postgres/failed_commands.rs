//! Commands that failed: kept in the transaction that settles them, taken again when they are due.

use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;
use uuid::Uuid;

use crate::application::error::{Failure, FailureKind};
use crate::application::kept::{KeptCommand, Verdict, Waiter};
use crate::application::message::{MessageKey, Properties};
use crate::application::ports::FailedCommands;

use super::connections::Connections;
use super::errors;
use super::loan::{Loan, answered};
use super::seen::{fingerprint, reason};
use super::shelf::Shelf;

/// How many callers are noted as waiting for one command; the last ones are.
const MAX_WAITERS: i32 = 32;

/// Keeps them, one statement each: failures are rare.
pub async fn keep(loan: &mut Loan, kept: &[KeptCommand]) -> Result<(), Failure> {
    for command in kept {
        if command.again {
            renew(loan, command).await?;
        } else if insert(loan, &Row::of(command)?).await? != 1 {
            return loan.note(Err(errors::conflict("a message with the same id was kept before")));
        }
    }
    Ok(())
}

/// Notes who else waits for commands that are kept. One that is being run just now would not see it.
pub async fn join(loan: &mut Loan, joined: &[(Uuid, Waiter)]) -> Result<(), Failure> {
    for (id, waiter) in joined {
        let waiter = serde_json::to_value(waiter).map_err(|_| errors::permanent("a waiter is not JSON"))?;
        let query = sqlx::query!(
            r#"update failed_commands
            set waiters = case
                when waiters @> jsonb_build_array($2::jsonb) then waiters
                when jsonb_array_length(waiters) >= $3 then (waiters - 0) || $2
                else waiters || $2
            end
            where id = $1 and state = 'waiting' and (claimed_until is null or claimed_until < now())"#,
            id,
            waiter,
            MAX_WAITERS
        );
        let answer = answered(query.execute(loan.connection()?)).await;
        if loan.note(answer)?.rows_affected() != 1 {
            let failure = Failure::new(FailureKind::Transient, "postgres: a kept command is being run");
            return loan.note(Err(failure));
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
    aggregate: Option<String>,
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
    /// In seconds.
    due_after: Option<f64>,
}

impl<'a> Row<'a> {
    fn of(command: &'a KeptCommand) -> Result<Self, Failure> {
        let (state, due_after) = standing(&command.verdict);
        Ok(Self {
            id: command.id,
            message_id: command.key.map(|key| key.message_id),
            issued_on: command.key.map(|key| key.issued_on),
            kind: storable(command.properties.kind.as_deref().unwrap_or_default()),
            aggregate: command.aggregate.as_deref().map(storable),
            actor: &command.actor,
            grant: command.grant.as_deref(),
            properties: serde_json::to_string(&command.properties)
                .map_err(|_| errors::permanent("the properties cannot be serialised"))?,
            body: &command.sealed_body,
            fingerprint: &command.fingerprint,
            reason: command.reason.as_str(),
            state,
            attempts: number(command.attempts),
            first_error: storable(&command.first_error),
            last_error: storable(&command.last_error),
            due_after,
        })
    }
}

fn number(attempts: u32) -> i32 {
    i32::try_from(attempts).unwrap_or(i32::MAX)
}

fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The state, and the seconds until it is due.
fn standing(verdict: &Verdict) -> (&'static str, Option<f64>) {
    match verdict {
        Verdict::Retry { after } => ("waiting", Some(after.as_secs_f64())),
        Verdict::Dead => ("dead", None),
        Verdict::Untold { after } => ("dead", Some(after.as_secs_f64())),
    }
}

/// A dead letter of the same message, whose caller had it judged anew, gives way; it keeps its id and its body,
/// which is sealed for that id.
async fn insert(loan: &mut Loan, row: &Row<'_>) -> Result<u64, Failure> {
    let query = sqlx::query!(
        r#"insert into failed_commands as kept
            (id, message_id, issued_on, type, aggregate, actor, actor_grant, properties, body, fingerprint, reason,
            state, attempts, first_error, last_error, due_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9, $10, $11, $12, $13, $14, $15,
            now() + make_interval(secs => $16))
        on conflict (message_id, issued_on) where message_id is not null do update set
            actor_grant = excluded.actor_grant, properties = excluded.properties, reason = excluded.reason,
            state = excluded.state, attempts = excluded.attempts, first_error = excluded.first_error,
            last_error = excluded.last_error, due_at = excluded.due_at, claimed_until = null, unended = 0,
            waiters = '[]', updated_at = now()
        where kept.state = 'dead' and kept.fingerprint = excluded.fingerprint and kept.type = excluded.type
            and kept.actor = excluded.actor"#,
        row.id,
        row.message_id,
        row.issued_on,
        row.kind,
        row.aggregate,
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
        row.due_after
    );
    let answer = answered(query.execute(loan.connection()?)).await;
    loan.note(answer.map(|done| done.rows_affected()))
}

/// Says how another try went. A row that is gone was dropped, or was done elsewhere.
async fn renew(loan: &mut Loan, command: &KeptCommand) -> Result<(), Failure> {
    let (state, due_after) = standing(&command.verdict);
    let query = sqlx::query!(
        r#"update failed_commands set
            message_id = case when $2 then message_id end, issued_on = case when $2 then issued_on end,
            reason = $3, state = $4, attempts = $5, last_error = $6,
            due_at = now() + make_interval(secs => $7), claimed_until = null, unended = 0,
            waiters = case when $4 = 'dead' and $7::float8 is null then '[]' else waiters end,
            updated_at = now()
        where id = $1"#,
        command.id,
        command.key.is_some(),
        command.reason.as_str(),
        state,
        number(command.attempts),
        storable(&command.last_error),
        due_after
    );
    let answer = answered(query.execute(loan.connection()?)).await;
    loan.note(answer.map(|_| ()))
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
            r#"with suspect as materialized (
                select id from failed_commands
                where state = 'waiting' and due_at <= now() and claimed_until < now()
                order by created_at, id limit 1 for update skip locked
            ), due as (
                select id from failed_commands f
                where state = 'waiting' and due_at <= now() and claimed_until is null
                    and not exists (select from suspect)
                    and not exists (
                        select from failed_commands earlier
                        where earlier.aggregate = f.aggregate and earlier.state = 'waiting'
                            and (earlier.created_at, earlier.id) < (f.created_at, f.id)
                            and earlier.attempts <= f.attempts
                            and (earlier.due_at > now() or earlier.claimed_until is not null)
                    )
                order by created_at, id limit $1 for update skip locked
            ), untold as (
                select id from failed_commands
                where state = 'dead' and due_at <= now() and (claimed_until is null or claimed_until < now())
                order by due_at limit $1 for update skip locked
            ), claimed as (
                update failed_commands
                set claimed_until = now() + interval '1 minute', unended = unended + 1
                where id in (
                    select id from suspect union all select id from due union all select id from untold
                )
                returning *
            )
            select id, message_id, issued_on, aggregate, actor, actor_grant, properties::text as "properties!",
                body, fingerprint, reason, state, attempts, unended, first_error, last_error, waiters
            from claimed order by created_at, id"#,
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
                    aggregate: row.aggregate,
                    again: true,
                    actor: row.actor,
                    grant: row.actor_grant,
                    properties: properties(&row.properties)?,
                    sealed_body: row.body,
                    fingerprint: fingerprint(&row.fingerprint)?,
                    reason: reason(&row.reason),
                    attempts: u32::try_from(row.attempts).unwrap_or_default(),
                    // Without the try that begins now.
                    unended: u32::try_from(row.unended - 1).unwrap_or_default(),
                    first_error: row.first_error,
                    last_error: row.last_error,
                    verdict: match row.state.as_str() {
                        "dead" => Verdict::Untold { after: Duration::ZERO },
                        _ => Verdict::Retry { after: Duration::ZERO },
                    },
                    waiters: serde_json::from_value(row.waiters).unwrap_or_default(),
                })
            })
            .collect()
    }

    async fn hold(&self, ids: &[Uuid]) -> Result<(), Failure> {
        let query = sqlx::query!(
            "update failed_commands set claimed_until = now() + interval '1 minute'
            where id in (
                select id from failed_commands where id = any($1) and claimed_until is not null
                for update skip locked
            )",
            ids
        );
        let mut lent = self.shelf.lend().await?;
        let done = answered(query.execute(lent.connection()?)).await;
        lent.note(done).map(|_| ())
    }

    async fn count(&self) -> Result<(i64, i64), Failure> {
        let query = sqlx::query!(
            r#"select count(*) filter (where state = 'waiting') as "waiting!",
                count(*) filter (where state = 'dead') as "dead!"
            from failed_commands"#
        );
        let mut lent = self.shelf.lend().await?;
        let row = answered(query.fetch_one(lent.connection()?)).await;
        lent.note(row).map(|row| (row.waiting, row.dead))
    }

    async fn told(&self, ids: &[Uuid]) -> Result<(), Failure> {
        let query = sqlx::query!(
            "update failed_commands set due_at = null, claimed_until = null, waiters = '[]'
            where id = any($1) and state = 'dead'",
            ids
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
