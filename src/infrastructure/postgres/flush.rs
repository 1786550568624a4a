//! Everything a batch writes, in one statement: one round trip, whatever the batch's size. It fails as a whole
//! where anything was changed meanwhile, so that it may well commit by itself.

use sqlx::postgres::PgConnection;

use crate::application::error::Failure;
use crate::application::ports::{Changes, NewAnswer, NewEvent};
use crate::domain::User;

use super::columns::{Answers, Events, Users};
use super::errors;
use super::loan::{Loan, answered};

/// What became of the statement.
pub enum Flushed {
    Written,
    /// A message is of a day that has no partition yet.
    MissingPartition(Failure),
}

/// Users are updated first, answers follow in the order of their ids, and creations come last, so that replicas rarely
/// deadlock. What is unique of a user is claimed by triggers (0009), after all of it.
///
/// A batch's id is taken once its users are updated, and so locked until the commit: of two batches that touch one
/// user, the later one has the higher id.
///
/// # Errors
/// [`FailureKind::Conflict`](crate::application::error::FailureKind::Conflict): a user was changed, an address
/// taken or a message handled since they were read.
pub async fn write(loan: &mut Loan, changes: &Changes, events: &[NewEvent]) -> Result<Flushed, Failure> {
    let connection = loan.connection()?;
    let mut missing = false;
    let answer = answered(async {
        let answer = match (&*changes.updated, events, &*changes.answers) {
            ([(stored, user)], [event], [answer]) if changes.created.is_empty() => {
                one(connection, *stored, user, event, answer, changes.unasked).await
            }
            _ => many(connection, changes, events).await,
        };
        missing = answer.as_ref().is_err_and(errors::is_missing_partition);
        answer
    })
    .await;
    match loan.note(answer) {
        Err(failure) if missing => Ok(Flushed::MissingPartition(failure)),
        answer => answer.map(|()| Flushed::Written),
    }
}

/// The statement, by where its users `u`, events `e` and answers `a` come from, by the ids of the answered messages, and
/// by the part that creates users: left out where none are created, for it would open the table and its indexes, and
/// fire its triggers, to write nothing.
macro_rules! statement {
    ($users:literal, $events:literal, $answers:literal, $messages:literal, $create:literal, $($given:tt)*) => {
        sqlx::query!(
            "with u (id, stored, email, name, role, password_hash, version, updated_at, deleted_at) as ("
                + $users
                + "), e (id, subject, sequence, type, data, occurred_at, causation_id, correlation_id, actor,
            traceparent, tracestate, n) as ("
                + $events
                + "), a (message_id, issued_on, type, actor, fingerprint, answer) as ("
                + $answers
                + r#"), updated as (
            update users set email = u.email, name = u.name, role = u.role, password_hash = u.password_hash,
                version = u.version, updated_at = u.updated_at, deleted_at = u.deleted_at
            from u
            cross join lateral (
                select ctid from users where id >= u.id and id <= u.id order by id desc limit 1
            ) as newest
            where users.ctid = newest.ctid and users.version = u.stored
            returning 1
        ), batch as materialized (
            select nextval('batch_ids') as id from (select count(*) from updated) as locked where $1 > 0
        )"#
                + $create
                + r#", recorded as (
            insert into events
                (batch_id, id, subject, sequence, type, data, occurred_at, causation_id, correlation_id, actor,
                traceparent, tracestate)
            select batch.id, e.id, e.subject, e.sequence, e.type, e.data::json, e.occurred_at, e.causation_id,
                e.correlation_id, e.actor, e.traceparent, e.tracestate
            from batch, e
            order by e.n
            returning 1
        ), noted as (
            insert into outbox (batch_id, events, first_event) select id, $1, $2 from batch returning 1
        ), answered as (
            insert into inbox (message_id, issued_on, type, actor, fingerprint, answer)
            select * from a order by message_id
            on conflict do nothing
            returning 1
        )
        select case
            when (select count(*) from updated) <> $3::int
                then roster_conflict('a user was changed')
            when (select count(*) from answered) <> $4::int
                then roster_conflict('a message was handled')
            when $5 and exists (select from failed_commands where message_id = any("#
                + $messages
                + r#"))
                then roster_conflict('a message was kept before')
            when (select count(*) from recorded) <> $1
                then roster_conflict('an event was not recorded')
            when (select count(*) from noted) <> least($1, 1)
                then roster_conflict('the batch was not noted')
            else true
        end as "written!""#,
            $($given)*
        )
    };
}

/// One update: arrays of one would cost Postgres more than all the rest of it (0.4 ms, without them 0.2).
async fn one(
    connection: &mut PgConnection,
    stored: i64,
    user: &User,
    event: &NewEvent,
    answer: &NewAnswer,
    unasked: bool,
) -> Result<(), sqlx::Error> {
    let user = user.state();
    let query = statement!(
        "values ($6::uuid, $7::bigint, $8::text, $9::text, $10::text, $11::text, $12::bigint, $13::timestamptz,
            $14::timestamptz)",
        "values ($15::uuid, $16::uuid, $17::bigint, $18::text, $19::text, $20::timestamptz, $21::uuid, $22::text,
            $23::text, $24::text, $25::text, 1)",
        "values ($26::uuid, $27::date, $28::text, $29::text, $30::bytea, $31::text)",
        "array[$26]",
        "",
        1,
        event.id,
        1,
        1,
        unasked,
        user.id.uuid(),
        stored,
        user.email.as_str(),
        user.name.as_str(),
        user.role.as_str(),
        user.password_hash.expose(),
        user.version,
        user.updated_at,
        user.deleted_at,
        event.id,
        event.subject,
        event.sequence,
        &*event.kind,
        &*event.data,
        event.occurred_at,
        event.causation_id,
        event.correlation_id.as_deref(),
        &*event.actor,
        event.traceparent.as_deref(),
        event.tracestate.as_deref(),
        answer.key.message_id,
        answer.key.issued_on,
        &*answer.message_type,
        &*answer.actor,
        &answer.fingerprint,
        &*answer.answer,
    );
    query.fetch_one(connection).await.map(|_| ())
}

async fn many(
    connection: &mut PgConnection,
    changes: &Changes,
    events: &[NewEvent],
) -> Result<(), sqlx::Error> {
    let updated = Users::of(changes.updated.iter().map(|(_, user)| user));
    let versions: Vec<i64> = changes.updated.iter().map(|(stored, _)| *stored).collect();
    let created = Users::of(changes.created.iter());
    let answers = Answers::of(&changes.answers);
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let events = Events::of(events);
    macro_rules! from_arrays {
        ($create:literal, $($created:tt)*) => {
            statement!(
                "select * from unnest($6::uuid[], $7::bigint[], $8::text[], $9::text[], $10::text[], $11::text[],
                    $12::bigint[], $13::timestamptz[], $14::timestamptz[])",
                "select * from unnest($15::uuid[], $16::uuid[], $17::bigint[], $18::text[], $19::text[],
                    $20::timestamptz[], $21::uuid[], $22::text[], $23::text[], $24::text[], $25::text[])
                    with ordinality",
                "select * from unnest($26::uuid[], $27::date[], $28::text[], $29::text[], $30::bytea[],
                    $31::text[])",
                "$26",
                $create,
                count(events.ids.len()),
                events.ids.first().copied(),
                count(updated.ids.len()),
                count(answers.ids.len()),
                changes.unasked,
                &updated.ids,
                &versions,
                &updated.emails as _,
                &updated.names as _,
                &updated.roles as _,
                &updated.hashes as _,
                &updated.versions,
                &updated.updated,
                &updated.deleted as _,
                &events.ids,
                &events.subjects,
                &events.sequences,
                &events.kinds as _,
                &events.data as _,
                &events.times,
                &events.causes,
                &events.correlations as _,
                &events.actors as _,
                &events.parents as _,
                &events.states as _,
                &answers.ids,
                &answers.days,
                &answers.kinds as _,
                &answers.actors as _,
                &answers.fingerprints as _,
                &answers.answers as _,
                $($created)*
            )
        };
    }
    if created.ids.is_empty() {
        return from_arrays!("",).fetch_one(connection).await.map(|_| ());
    }
    let query = from_arrays!(
        r#", created as (
            insert into users
                (id, email, name, role, password_hash, version, created_at, updated_at, deleted_at)
            select * from unnest($32::uuid[], $33::text[], $34::text[], $35::text[], $36::text[], $37::bigint[],
                $38::timestamptz[], $39::timestamptz[], $40::timestamptz[])
        )"#,
        &created.ids,
        &created.emails as _,
        &created.names as _,
        &created.roles as _,
        &created.hashes as _,
        &created.versions,
        &created.created,
        &created.updated,
        &created.deleted as _,
    );
    query.fetch_one(connection).await.map(|_| ())
}
