//! Loading and locking users for a batch.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::application::error::Failure;
use crate::application::workspace::{Needs, Workspace};
use crate::domain::{Email, Id, PasswordHash, Role, User, UserName, UserState};

use super::errors;
use super::loan::{Loan, answered};

struct Row {
    id: Uuid,
    email: String,
    name: String,
    role: String,
    password_hash: String,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    deleted_at: Option<DateTime<Utc>>,
}

/// Locks nothing: whoever changes one of them meanwhile is found when the batch is written.
///
/// An id is looked for from the end of its entries in the index, as a range that holds nothing else. Usually it has a
/// single one; while a transaction is open elsewhere, old versions stay, and the newest mostly stands last.
pub async fn read(loan: &mut Loan, needs: &Needs) -> Result<Workspace, Failure> {
    let ids: Vec<Uuid> = needs.users.iter().map(|id| id.uuid()).collect();
    let rows = if needs.emails.is_empty() {
        let query = sqlx::query_as!(
            Row,
            r#"select id as "id!", email as "email!", name as "name!", role as "role!",
                password_hash as "password_hash!", version as "version!", created_at as "created_at!",
                updated_at as "updated_at!", deleted_at
            from unnest($1::uuid[]) as key
            cross join lateral (
                select * from users where id >= key and id <= key order by id desc limit 1
            ) as found"#,
            &ids
        );
        answered(query.fetch_all(loan.connection()?)).await
    } else {
        let emails: Vec<&str> = needs.emails.iter().map(Email::as_str).collect();
        // Who is found both ways counts once in the workspace.
        let query = sqlx::query_as!(
            Row,
            r#"select id as "id!", email as "email!", name as "name!", role as "role!",
                password_hash as "password_hash!", version as "version!", created_at as "created_at!",
                updated_at as "updated_at!", deleted_at
            from (
                select unnest($1::uuid[]) union all select id from identities where email = any($2)
            ) as sought (key)
            cross join lateral (
                select * from users where id >= key and id <= key order by id desc limit 1
            ) as found"#,
            &ids,
            &emails as _
        );
        answered(query.fetch_all(loan.connection()?)).await
    };
    let users: Result<Vec<User>, Failure> = loan.note(rows)?.into_iter().map(user).collect();
    users.map(Workspace::new)
}

/// Locks in id order, as everybody does. Whoever takes an address meanwhile is found at the flush.
pub async fn load(loan: &mut Loan, needs: &Needs) -> Result<Workspace, Failure> {
    let ids: Vec<Uuid> = needs.users.iter().map(|id| id.uuid()).collect();
    let rows = if needs.emails.is_empty() {
        let query = sqlx::query_as!(
            Row,
            r#"select id, email, name, role, password_hash, version, created_at, updated_at, deleted_at
            from users where id = any($1) order by id for no key update"#,
            &ids
        );
        answered(query.fetch_all(loan.connection()?)).await
    } else {
        let emails: Vec<&str> = needs.emails.iter().map(Email::as_str).collect();
        let query = sqlx::query_as!(
            Row,
            r#"select id, email, name, role, password_hash, version, created_at, updated_at, deleted_at
            from users where id = any($1 || array(select id from identities where email = any($2)))
            order by id for no key update"#,
            &ids,
            &emails as _
        );
        answered(query.fetch_all(loan.connection()?)).await
    };
    let users: Result<Vec<User>, Failure> = loan.note(rows)?.into_iter().map(user).collect();
    users.map(Workspace::new)
}

fn user(row: Row) -> Result<User, Failure> {
    let unfit = |column| move |_| errors::permanent(&format!("users.{column} holds what no user may have"));
    Ok(User::rehydrate(UserState {
        id: Id::new(row.id),
        email: Email::parse(&row.email).map_err(unfit("email"))?,
        name: UserName::parse(&row.name).map_err(unfit("name"))?,
        role: Role::parse(&row.role).map_err(unfit("role"))?,
        password_hash: PasswordHash::new(row.password_hash),
        version: row.version,
        created_at: row.created_at,
        updated_at: row.updated_at,
        deleted_at: row.deleted_at,
    }))
}
