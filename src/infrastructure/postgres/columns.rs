//! What is written, column by column, as arrays take it.

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::application::ports::{NewAnswer, NewEvent};
use crate::domain::User;

#[derive(Default)]
pub struct Users<'a> {
    pub ids: Vec<Uuid>,
    pub emails: Vec<&'a str>,
    pub names: Vec<&'a str>,
    pub roles: Vec<&'a str>,
    pub hashes: Vec<&'a str>,
    pub versions: Vec<i64>,
    pub created: Vec<DateTime<Utc>>,
    pub updated: Vec<DateTime<Utc>>,
    pub deleted: Vec<Option<DateTime<Utc>>>,
}

impl<'a> Users<'a> {
    pub fn of(users: impl Iterator<Item = &'a User>) -> Self {
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
pub struct Events<'a> {
    pub ids: Vec<Uuid>,
    pub subjects: Vec<Uuid>,
    pub sequences: Vec<i64>,
    pub kinds: Vec<&'a str>,
    pub data: Vec<&'a str>,
    pub times: Vec<DateTime<Utc>>,
    pub causes: Vec<Uuid>,
    pub correlations: Vec<Option<&'a str>>,
    pub actors: Vec<&'a str>,
    pub parents: Vec<Option<&'a str>>,
    pub states: Vec<Option<&'a str>>,
}

impl<'a> Events<'a> {
    pub fn of(events: &'a [NewEvent]) -> Self {
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
pub struct Answers<'a> {
    pub ids: Vec<Uuid>,
    pub days: Vec<NaiveDate>,
    pub kinds: Vec<&'a str>,
    pub actors: Vec<&'a str>,
    pub fingerprints: Vec<&'a [u8]>,
    pub answers: Vec<&'a str>,
}

impl<'a> Answers<'a> {
    pub fn of(answers: &'a [NewAnswer]) -> Self {
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
