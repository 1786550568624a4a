//! What operators do with the failed commands: look at them, run them again, drop them.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use crate::application::dead_letter::{Fate, Letter, Replay, Selection, State};
use crate::application::error::Failure;

use super::errors;
use super::failed_commands::properties;
use super::loan::answered;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    message_id: Option<Uuid>,
    issued_on: Option<NaiveDate>,
    r#type: String,
    aggregate: Option<String>,
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
    running: bool,
    answered: bool,
}

/// Those that fit, the oldest first, at most `limit`; and how many fit in all.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn list(pool: &PgPool, selection: &Selection, limit: u32) -> Result<(Vec<Letter>, i64), Failure> {
    let mut connection = acquire(pool).await?;
    let mut count = QueryBuilder::new("select count(*) from failed_commands f where true");
    push(&mut count, selection);
    let count = answered(count.build_query_scalar::<i64>().fetch_one(&mut *connection)).await?;
    Ok((letters(&mut connection, selection, Some(limit), "").await?, count))
}

/// A sealed body, by the row's id.
///
/// # Errors
/// A [`Failure`] of the store.
pub async fn body(pool: &PgPool, id: Uuid) -> Result<Option<Vec<u8>>, Failure> {
    let query = sqlx::query_scalar!("select body from failed_commands where id = $1", id);
    answered(query.fetch_optional(pool)).await
}

/// Makes those due now that `replay` lets run, with all their tries before them and in the order in which they were
/// kept. Returns what became of each; unless `really`, nothing did yet.
///
/// # Errors
/// A [`Failure`] of the store; nothing was changed then.
pub async fn replay(
    pool: &PgPool,
    selection: &Selection,
    replay: Replay,
    really: bool,
    fresh_id: fn() -> Uuid,
) -> Result<Vec<(Letter, Fate)>, Failure> {
    let mut transaction = answered(pool.begin()).await?;
    let now = Utc::now();
    let letters =
        letters(&mut transaction, selection, None, if really { " for update of f" } else { "" }).await?;
    let fates: Vec<_> = letters.into_iter().map(|letter| (replay.fate(&letter, now), letter)).collect();
    if really {
        for (fate, letter) in fates.iter().filter(|(fate, _)| fate.is_replayed()) {
            let fresh_id = (*fate == Fate::Renewed).then(fresh_id);
            let properties = replay.properties(letter, *fate, now, fresh_id.unwrap_or_default());
            make_due(&mut transaction, letter.id, fresh_id, &properties).await?;
        }
        answered(transaction.commit()).await?;
    }
    Ok(fates.into_iter().map(|(fate, letter)| (letter, fate)).collect())
}

/// All of one replay are due at the same instant: within a transaction, `now()` stands still.
async fn make_due(
    connection: &mut PgConnection,
    id: Uuid,
    fresh_id: Option<Uuid>,
    properties: &crate::application::message::Properties,
) -> Result<(), Failure> {
    let json =
        serde_json::to_string(properties).map_err(|_| errors::permanent("the properties are not JSON"))?;
    let query = sqlx::query!(
        r#"update failed_commands set
            message_id = coalesce($2, message_id),
            issued_on = case when $2::uuid is null then issued_on else (now() at time zone 'utc')::date end,
            properties = $3::text::json, state = 'waiting', attempts = 0, unended = 0, due_at = now(),
            claimed_until = null, updated_at = now()
        where id = $1"#,
        id,
        fresh_id,
        json
    );
    answered(query.execute(connection)).await.map(|_| ())
}

/// Deletes those that no worker has in hand. Returns all that fit; unless `really`, they are still there.
///
/// # Errors
/// A [`Failure`] of the store; nothing was changed then.
pub async fn drop(pool: &PgPool, selection: &Selection, really: bool) -> Result<Vec<Letter>, Failure> {
    let mut transaction = answered(pool.begin()).await?;
    let letters =
        letters(&mut transaction, selection, None, if really { " for update of f" } else { "" }).await?;
    if really {
        let ids: Vec<Uuid> =
            letters.iter().filter(|letter| !letter.running).map(|letter| letter.id).collect();
        let query = sqlx::query!("delete from failed_commands where id = any($1)", &ids);
        answered(query.execute(&mut *transaction)).await?;
        answered(transaction.commit()).await?;
    }
    Ok(letters)
}

async fn acquire(pool: &PgPool) -> Result<sqlx::pool::PoolConnection<Postgres>, Failure> {
    pool.acquire().await.map_err(|error| errors::failure(&error))
}

async fn letters(
    connection: &mut PgConnection,
    selection: &Selection,
    limit: Option<u32>,
    lock: &str,
) -> Result<Vec<Letter>, Failure> {
    // An id that was answered for another message meanwhile is that one's.
    let mut sql = QueryBuilder::new(
        "select id, case when handled.mine is distinct from false then f.message_id end as message_id, f.issued_on, f.type, aggregate, f.actor, properties::text as properties, reason, state, \
        attempts, first_error, last_error, due_at, created_at, updated_at, \
        coalesce(claimed_until > now(), false) as running, \
        coalesce(handled.mine, false) as answered \
        from failed_commands f left join lateral ( \
            select (i.fingerprint, i.type, i.actor) = (f.fingerprint, f.type, f.actor) as mine \
            from inbox i where i.message_id = f.message_id and i.issued_on = f.issued_on \
        ) as handled on true where true",
    );
    push(&mut sql, selection);
    sql.push(" order by created_at, id");
    if let Some(limit) = limit {
        sql.push(" limit ").push_bind(i64::from(limit));
    }
    sql.push(lock);
    let rows = answered(sql.build_query_as::<Row>().fetch_all(connection)).await?;
    rows.into_iter().map(letter).collect()
}

fn push(sql: &mut QueryBuilder<Postgres>, selection: &Selection) {
    if let Some(state) = selection.state {
        sql.push(" and state = ").push_bind(state.as_str());
    }
    if !selection.ids.is_empty() {
        sql.push(" and (id = any(").push_bind(selection.ids.clone());
        sql.push(") or f.message_id = any(").push_bind(selection.ids.clone());
        // One whose id is another message's has it in its properties alone. They are not looked into as JSON:
        // U+0000 in any of them would fail the statement.
        let named: Vec<String> =
            selection.ids.iter().map(|id| format!("%\"message_id\":\"{id}\"%")).collect();
        sql.push(") or (f.message_id is null and properties::text ilike any(").push_bind(named).push(")))");
    }
    if let Some(reason) = selection.reason {
        sql.push(" and reason = ").push_bind(reason.as_str());
    }
    if let Some(message_type) = &selection.message_type {
        sql.push(" and f.type = ").push_bind(message_type.clone());
    }
    if let Some(user) = &selection.user {
        let user = user.to_lowercase();
        sql.push(" and (aggregate = ").push_bind(user.clone());
        sql.push(" or aggregate in (select id::text from users where email = ").push_bind(user.clone());
        sql.push(") or aggregate in (select email from users where id::text = ").push_bind(user).push("))");
    }
}

fn letter(row: Row) -> Result<Letter, Failure> {
    Ok(Letter {
        id: row.id,
        message_id: row.message_id,
        issued_on: row.issued_on,
        message_type: row.r#type,
        aggregate: row.aggregate,
        actor: row.actor,
        properties: properties(&row.properties)?,
        reason: row.reason,
        state: if row.state == "waiting" { State::Waiting } else { State::Dead },
        attempts: row.attempts,
        first_error: row.first_error,
        last_error: row.last_error,
        due_at: row.due_at,
        created_at: row.created_at,
        updated_at: row.updated_at,
        running: row.running,
        answered: row.answered,
    })
}
