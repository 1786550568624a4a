//! Everything a batch writes, in one statement: one round trip, whatever the batch's size. It fails as a whole
//! where anything was changed meanwhile, so that it may well commit by itself.

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::application::error::Failure;
use crate::application::ports::{Changes, NewAnswer, NewEvent};
use crate::domain::User;

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
    let updated = Users::of(changes.updated.iter().map(|(_, user)| user));
    let versions: Vec<i64> = changes.updated.iter().map(|(stored, _)| *stored).collect();
    let created = Users::of(changes.created.iter());
    let events = Events::of(events);
    let answers = Answers::of(&changes.answers);
    // The part that creates users is left out where none are created: it would open the table and its indexes, and
    // fire its triggers, to write nothing.
    macro_rules! statement {
        ($create:literal, $($created:tt)*) => {
            sqlx::query!(
                r#"with updated as (
            update users set email = u.email, name = u.name, role = u.role, password_hash = u.password_hash,
                version = u.version, updated_at = u.updated_at, deleted_at = u.deleted_at
            from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                    $8::timestamptz[], $9::timestamptz[])
                as u (id, stored, email, name, role, password_hash, version, updated_at, deleted_at)
            cross join lateral (
                select ctid from users where id >= u.id and id <= u.id order by id desc limit 1
            ) as newest
            where users.ctid = newest.ctid and users.version = u.stored
            returning 1
        ), batch as materialized (
            select nextval('batch_ids') as id from (select count(*) from updated) as locked
            where cardinality($11::uuid[]) > 0
        )"# + $create
                    + r#", recorded as (
            insert into events
                (batch_id, id, subject, sequence, type, data, occurred_at, causation_id, correlation_id, actor,
                traceparent, tracestate)
            select batch.id, e.id, e.subject, e.sequence, e.type, e.data::json, e.occurred_at, e.causation_id,
                e.correlation_id, e.actor, e.traceparent, e.tracestate
            from batch, unnest($10::uuid[], $11::uuid[], $12::bigint[], $13::text[], $14::text[],
                    $15::timestamptz[], $16::uuid[], $17::text[], $18::text[], $19::text[], $20::text[])
                with ordinality
                as e (id, subject, sequence, type, data, occurred_at, causation_id, correlation_id, actor,
                    traceparent, tracestate, n)
            order by e.n
            returning 1
        ), noted as (
            insert into outbox (batch_id, events, first_event)
            select id, cardinality($11::uuid[]), ($10::uuid[])[1] from batch
            returning 1
        ), answered as (
            insert into inbox (message_id, issued_on, type, actor, fingerprint, answer)
            select * from unnest($21::uuid[], $22::date[], $23::text[], $24::text[], $25::bytea[], $26::text[])
                as a (message_id, issued_on, type, actor, fingerprint, answer)
            order by a.message_id
            on conflict do nothing
            returning 1
        )
        select case
            when (select count(*) from updated) <> cardinality($1)
                then roster_conflict('a user was changed')
            when (select count(*) from answered) <> cardinality($21)
                then roster_conflict('a message was handled')
            when $27 and exists (select from failed_commands where message_id = any($21))
                then roster_conflict('a message was kept before')
            when (select count(*) from recorded) <> cardinality($11)
                then roster_conflict('an event was not recorded')
            when (select count(*) from noted) <> least(cardinality($11), 1)
                then roster_conflict('the batch was not noted')
            else true
        end as "written!""#,
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
                changes.unasked,
                $($created)*
            )
        };
    }
    let connection = loan.connection()?;
    let mut missing = false;
    let answer = answered(async {
        let answer = if created.ids.is_empty() {
            statement!("",).fetch_one(connection).await.map(|_| ())
        } else {
            let query = statement!(
                r#", created as (
            insert into users
                (id, email, name, role, password_hash, version, created_at, updated_at, deleted_at)
            select * from unnest($28::uuid[], $29::text[], $30::text[], $31::text[], $32::text[], $33::bigint[],
                $34::timestamptz[], $35::timestamptz[], $36::timestamptz[])
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

#[derive(Default)]
struct Users<'a> {
    ids: Vec<Uuid>,
    emails: Vec<&'a str>,
    names: Vec<&'a str>,
    roles: Vec<&'a str>,
    hashes: Vec<&'a str>,
    versions: Vec<i64>,
    created: Vec<DateTime<Utc>>,
    updated: Vec<DateTime<Utc>>,
    deleted: Vec<Option<DateTime<Utc>>>,
}

impl<'a> Users<'a> {
    fn of(users: impl Iterator<Item = &'a User>) -> Self {
        let mut columns = Self::default();
        for state in users.map(User::state) {
            columns.ids.push(state.id.uuid());
            columns.emails.push(state.email.as_str());
            columns.names.push(state.name.as_str());
            columns.roles.push(state.role.as_str());
            columns.hashes.push(state.password_hash.expose());
            columns.versions.push(state.version);
            columns.created.push(state.created_at);
            columns.updated.push(state.updated_at);
            columns.deleted.push(state.deleted_at);
        }
        columns
    }
}

#[derive(Default)]
struct Events<'a> {
    ids: Vec<Uuid>,
    subjects: Vec<Uuid>,
    sequences: Vec<i64>,
    kinds: Vec<&'a str>,
    data: Vec<&'a str>,
    times: Vec<DateTime<Utc>>,
    causes: Vec<Uuid>,
    correlations: Vec<Option<&'a str>>,
    actors: Vec<&'a str>,
    parents: Vec<Option<&'a str>>,
    states: Vec<Option<&'a str>>,
}

impl<'a> Events<'a> {
    fn of(events: &'a [NewEvent]) -> Self {
        let mut columns = Self::default();
        for event in events {
            columns.ids.push(event.id);
            columns.subjects.push(event.subject);
            columns.sequences.push(event.sequence);
            columns.kinds.push(&event.kind);
            columns.data.push(&event.data);
            columns.times.push(event.occurred_at);
            columns.causes.push(event.causation_id);
            columns.correlations.push(event.correlation_id.as_deref());
            columns.actors.push(&event.actor);
            columns.parents.push(event.traceparent.as_deref());
            columns.states.push(event.tracestate.as_deref());
        }
        columns
    }
}

#[derive(Default)]
struct Answers<'a> {
    ids: Vec<Uuid>,
    days: Vec<NaiveDate>,
    kinds: Vec<&'a str>,
    actors: Vec<&'a str>,
    fingerprints: Vec<&'a [u8]>,
    answers: Vec<&'a str>,
}

impl<'a> Answers<'a> {
    fn of(answers: &'a [NewAnswer]) -> Self {
        let mut columns = Self::default();
        for answer in answers {
            columns.ids.push(answer.key.message_id);
            columns.days.push(answer.key.issued_on);
            columns.kinds.push(&answer.message_type);
            columns.actors.push(&answer.actor);
            columns.fingerprints.push(&answer.fingerprint);
            columns.answers.push(&answer.answer);
        }
        columns
    }
}
