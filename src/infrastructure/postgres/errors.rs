//! The one mapping from the database's errors to what must come of them.

use std::io;

use sqlx::postgres::PgDatabaseError;

use crate::application::error::{Failure, FailureKind};

/// What `roster_conflict` raises (migration 0007).
const CONFLICT: &str = "RS409";

/// What became of a statement. Tells the code and the constraint, never the server's text, which may quote values.
pub fn failure(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => answered(error.code(), error.constraint(), error.table()),
            None => Failure::new(FailureKind::Permanent, "postgres: an error of another database"),
        },
        sqlx::Error::Io(error) => away(&format!("the connection failed ({})", error.kind())),
        sqlx::Error::Tls(_) => away("TLS failed"),
        sqlx::Error::PoolTimedOut => away("no connection became free or could be made in time"),
        sqlx::Error::PoolClosed => away("the pool is closed"),
        sqlx::Error::WorkerCrashed => away("the connection's worker crashed"),
        // The stream of messages is out of step: the connection is of no use.
        sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => away("the protocol is out of step"),
        sqlx::Error::Configuration(_) => permanent("the connection is configured wrongly"),
        sqlx::Error::RowNotFound => permanent("a row is missing"),
        sqlx::Error::ColumnDecode { index, .. } => permanent(&format!("column {index} cannot be decoded")),
        sqlx::Error::Decode(_) => permanent("a value cannot be decoded"),
        sqlx::Error::Encode(_) => permanent("a value cannot be encoded"),
        _ => permanent("the driver refused"),
    }
}

/// No answer within the time that every answer gets.
pub fn overdue() -> Failure {
    away("no answer in time")
}

/// What a connection to a standby is refused with.
pub fn read_only() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the server is read-only"))
}

/// A row had no partition to go to.
pub fn is_missing_partition(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().as_deref() == Some("23514") && error.constraint().is_none()
}

/// Something that another session made first.
pub fn is_there_already(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    // A table, an object, a type's row in a catalogue, a partition that overlaps.
    matches!(error.code().as_deref(), Some("42P07" | "42710" | "23505" | "42P17"))
}

pub fn conflict(what: &str) -> Failure {
    Failure::new(FailureKind::Conflict, format!("postgres: {what}"))
}

pub fn permanent(what: &str) -> Failure {
    Failure::new(FailureKind::Permanent, format!("postgres: {what}"))
}

fn away(what: &str) -> Failure {
    Failure::new(FailureKind::Away, format!("postgres: {what}"))
}

fn answered(code: &str, constraint: Option<&str>, table: Option<&str>) -> Failure {
    let mut what = format!("postgres: {} ({code}", meaning(code));
    if let Some(name) = constraint.or(table) {
        what.push_str(", ");
        what.push_str(name);
    }
    what.push(')');
    Failure::new(kind(code, constraint), what)
}

fn kind(code: &str, constraint: Option<&str>) -> FailureKind {
    match code {
        "40001" | "40P01" | "55P03" | "57014" => FailureKind::Transient,
        // A read-only server, an administrator's shutdown, a crash, a start-up.
        "25006" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => FailureKind::Away,
        CONFLICT => FailureKind::Conflict,
        "23505" if constraint.is_some_and(is_raced_for) => FailureKind::Conflict,
        _ => match code.get(..2) {
            Some("08" | "28" | "53" | "58") => FailureKind::Away,
            _ => FailureKind::Permanent,
        },
    }
}

/// Unique indexes that two transactions may well run into at the same time. Those of `identities` are `users_…`.
fn is_raced_for(constraint: &str) -> bool {
    ["users_", "inbox_", "failed_commands_"].iter().any(|table| constraint.starts_with(table))
}

fn meaning(code: &str) -> &'static str {
    match code {
        CONFLICT => "changed meanwhile",
        "25006" => "read-only",
        "3D000" => "no such database",
        "25P03" | "57P05" => "idle for too long",
        "40P01" => "deadlock",
        "55P03" => "waited too long for a lock",
        "57014" => "took too long",
        "57P01" | "57P02" | "57P03" => "shutting down or starting up",
        _ => match code.get(..2) {
            Some("08") => "connection failure",
            Some("22") => "a value does not fit",
            Some("23") => "a constraint is violated",
            Some("28") => "not let in",
            Some("40") => "serialization failure",
            Some("42") => "a statement does not fit the tables",
            Some("53") => "out of resources",
            Some("57") => "interrupted",
            Some("58" | "XX") => "server failure",
            _ => "error",
        },
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("40001", None, FailureKind::Transient)]
    #[case("40P01", None, FailureKind::Transient)]
    #[case("55P03", None, FailureKind::Transient)]
    #[case("57014", None, FailureKind::Transient)]
    #[case("57P01", None, FailureKind::Away)]
    #[case("53300", None, FailureKind::Away)]
    #[case("08006", None, FailureKind::Away)]
    #[case("28P01", None, FailureKind::Away)]
    #[case("25006", None, FailureKind::Away)]
    #[case("23505", Some("users_address"), FailureKind::Conflict)]
    #[case("23505", Some("users_identity"), FailureKind::Conflict)]
    #[case("23505", Some("inbox_y2026m11d21_pkey"), FailureKind::Conflict)]
    #[case("23505", Some("outbox_pkey"), FailureKind::Permanent)]
    #[case("RS409", Some("a user was changed"), FailureKind::Conflict)]
    #[case("23514", Some("users_role"), FailureKind::Permanent)]
    #[case("22P02", None, FailureKind::Permanent)]
    #[case("42703", None, FailureKind::Permanent)]
    fn a_code_decides_what_comes_of_it(
        #[case] code: &str,
        #[case] constraint: Option<&str>,
        #[case] expected: FailureKind,
    ) {
        assert_eq!(kind(code, constraint), expected);
    }

    #[test]
    fn a_failure_names_the_code_and_the_constraint() {
        assert_eq!(
            answered("23505", Some("users_address"), Some("identities")).what,
            "postgres: a constraint is violated (23505, users_address)"
        );
    }
}
