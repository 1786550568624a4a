//! What operators do with the failed commands: look at them, run them again, drop them.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgPool;
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use crate::application::error::Failure;
use crate::application::kept::KeptReason;
use crate::application::message::Properties;

use super::failed_commands::properties;
use super::loan::answered;

/// What to list; everything that is not given fits.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// `waiting` or `dead`.
    pub state: Option<String>,
    /// The row's id, or the message's.
    pub id: Option<Uuid>,
    pub reason: Option<KeptReason>,
    pub message_type: Option<String>,
    /// The actor as it is shown: `user:<id>`, `service:<name>`, `anonymous`.
    pub actor: Option<String>,
    pub limit: u32,
}

/// A failed command without its body.
#[derive(Debug, Clone)]
pub struct Letter {
    pub id: Uuid,
    pub message_id: Option<Uuid>,
    pub message_type: String,
    pub actor: String,
    pub properties: Properties,
    pub reason: String,
    pub state: String,
    pub attempts: i32,
    pub first_error: String,
    pub last_error: String,
    pub due_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    message_id: Option<Uuid>,
    r#type: String,
    actor: String,
    properties: String,
    reason: String,
    state: String,
    attempts: i32,
    first_error: String,
    last_error: String,
    due_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// The oldest first.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn list(pool: &PgPool, filter: &Filter) -> Result<Vec<Letter>, Failure> {
    let mut sql = QueryBuilder::new(
        "select id, message_id, type, actor, properties::text as properties, reason, state, attempts, \
        first_error, last_error, due_at, created_at, updated_at from failed_commands where true",
    );
    push_filter(&mut sql, filter);
    sql.push(" order by created_at, id limit ").push_bind(i64::from(filter.limit));
    let rows = answered(sql.build_query_as::<Row>().fetch_all(pool)).await?;
    rows.into_iter().map(letter).collect()
}

/// How many fit, whatever the filter's limit.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn count(pool: &PgPool, filter: &Filter) -> Result<i64, Failure> {
    let mut sql = QueryBuilder::new("select count(*) from failed_commands where true");
    push_filter(&mut sql, filter);
    answered(sql.build_query_scalar::<i64>().fetch_one(pool)).await
}

fn push_filter(sql: &mut QueryBuilder<Postgres>, filter: &Filter) {
    if let Some(state) = &filter.state {
        sql.push(" and state = ").push_bind(state.clone());
    }
    if let Some(id) = filter.id {
        sql.push(" and (id = ").push_bind(id).push(" or message_id = ").push_bind(id).push(")");
    }
    if let Some(reason) = filter.reason {
        sql.push(" and reason = ").push_bind(reason.as_str());
    }
    if let Some(message_type) = &filter.message_type {
        sql.push(" and type = ").push_bind(message_type.clone());
    }
    if let Some(actor) = &filter.actor {
        sql.push(" and actor = ").push_bind(actor.clone());
    }
}

/// One of them, by the row's id, with its sealed body.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn show(pool: &PgPool, id: Uuid) -> Result<Option<(Letter, Vec<u8>)>, Failure> {
    let filter = Filter { id: Some(id), limit: 2, ..Filter::default() };
    let Some(letter) = list(pool, &filter).await?.into_iter().next() else { return Ok(None) };
    let query = sqlx::query_scalar!("select body from failed_commands where id = $1", letter.id);
    Ok(answered(query.fetch_optional(pool)).await?.map(|body| (letter, body)))
}

/// Makes them due now, in the order in which they were kept, with all their tries before them. `renew` gives each
/// an id of its own, issued now: the way out where the old one is past the dedupe window.
/// Returns how many there were.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn replay(pool: &PgPool, ids: &[Uuid], renew: Option<fn() -> Uuid>) -> Result<u64, Failure> {
    if let Some(fresh) = renew {
        renew_ids(pool, ids, fresh).await?;
    }
    // A millisecond apart: what is due first is taken first.
    let query = sqlx::query!(
        r#"update failed_commands set state = 'waiting', attempts = 0, claimed_until = null, updated_at = now(),
            due_at = now() + (kept.n - 1) * interval '1 millisecond'
        from (
            select id, row_number() over (order by created_at, id) as n
            from failed_commands where id = any($1)
        ) as kept
        where failed_commands.id = kept.id
            and (failed_commands.claimed_until is null or failed_commands.claimed_until < now())"#,
        ids
    );
    Ok(answered(query.execute(pool)).await?.rows_affected())
}

async fn renew_ids(pool: &PgPool, ids: &[Uuid], fresh: fn() -> Uuid) -> Result<(), Failure> {
    let query = sqlx::query!(
        r#"select id, properties::text as "properties!" from failed_commands where id = any($1)"#,
        ids
    );
    for row in answered(query.fetch_all(pool)).await? {
        let message_id = fresh();
        let renewed = Properties {
            message_id: Some(message_id.to_string()),
            timestamp: None,
            ..properties(&row.properties)?
        };
        let json = serde_json::to_string(&renewed).unwrap_or_default();
        let query = sqlx::query!(
            r#"update failed_commands set message_id = $2, properties = $3::text::json,
                issued_on = (now() at time zone 'utc')::date where id = $1"#,
            row.id,
            message_id,
            json
        );
        answered(query.execute(pool)).await?;
    }
    Ok(())
}

/// Returns how many there were.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn drop(pool: &PgPool, ids: &[Uuid]) -> Result<u64, Failure> {
    let query = sqlx::query!("delete from failed_commands where id = any($1)", ids);
    Ok(answered(query.execute(pool)).await?.rows_affected())
}

fn letter(row: Row) -> Result<Letter, Failure> {
    Ok(Letter {
        id: row.id,
        message_id: row.message_id,
        message_type: row.r#type,
        actor: row.actor,
        properties: properties(&row.properties)?,
        reason: row.reason,
        state: row.state,
        attempts: row.attempts,
        first_error: row.first_error,
        last_error: row.last_error,
        due_at: row.due_at,
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}
