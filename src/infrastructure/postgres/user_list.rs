//! `user.list.v1`: one statement shape per sort, order and filter, each on an index of its own.

use sqlx::{Postgres, QueryBuilder};

use crate::application::dto::{PageMeta, UserView};
use crate::application::error::Failure;
use crate::application::query::{Cursor, Order, Sort, SortKey, UserFilter, Window};
use crate::domain::Role;

use super::loan::answered;
use super::lookups::UserRow;
use super::shelf::Shelf;

/// One page: by offset, or after a cursor at a cost that does not grow with the depth.
pub async fn list(shelf: &Shelf, filter: &UserFilter) -> Result<(Vec<UserView>, PageMeta), Failure> {
    // A plan for any search at all would suit few of them: each gets its own.
    let any_plan = filter.search.is_none();
    let mut page = page(filter);
    let mut lent = shelf.lend().await?;
    let query = page.build_query_as::<UserRow>().persistent(any_plan);
    let rows = answered(query.fetch_all(lent.connection()?)).await;
    let rows = lent.note(rows)?;
    let mut users = rows.into_iter().map(UserRow::view).collect::<Result<Vec<_>, _>>()?;
    // One more than asked for tells whether there is another page.
    let per_page = usize::try_from(filter.per_page).unwrap_or_default();
    let more = users.len() > per_page;
    users.truncate(per_page);
    let next_cursor = users.last().filter(|_| more).map(|last| Cursor::after(filter, last).seal());
    let total = if filter.total {
        let mut count = QueryBuilder::new("select count(*) from users");
        push_filter(&mut count, filter);
        let query = count.build_query_scalar::<i64>().persistent(any_plan);
        let total = answered(query.fetch_one(lent.connection()?)).await;
        Some(lent.note(total)?)
    } else {
        None
    };
    let page = match filter.window {
        Window::Page(page) => Some(page),
        Window::After(_) => None,
    };
    Ok((users, PageMeta { page, per_page: filter.per_page, total, next_cursor }))
}

/// The pieces of SQL are chosen here, never made of what a caller sent: values are bound.
fn page(filter: &UserFilter) -> QueryBuilder<Postgres> {
    let column = match filter.sort {
        Sort::CreatedAt => "created_at",
        Sort::UpdatedAt => "updated_at",
        Sort::Email => "email",
        Sort::Name => "name",
    };
    let (direction, beyond) = match filter.order {
        Order::Asc => ("asc", ">"),
        Order::Desc => ("desc", "<"),
    };
    // Addresses are unique, and their index holds nothing beside them.
    let ties = filter.sort != Sort::Email;
    let mut sql =
        QueryBuilder::new("select id, email, name, role, version, created_at, updated_at from users");
    push_filter(&mut sql, filter);
    if let Window::After(cursor) = &filter.window {
        sql.push(if ties {
            format!(" and ({column}, id) {beyond} (")
        } else {
            format!(" and {column} {beyond} ")
        });
        match &cursor.after {
            SortKey::Time(time) => sql.push_bind(*time),
            SortKey::Text(text) => sql.push_bind(text.clone()),
        };
        if ties {
            sql.push(", ").push_bind(cursor.id).push(")");
        }
    }
    sql.push(format!(" order by {column} {direction}"));
    if ties {
        sql.push(format!(", id {direction}"));
    }
    sql.push(" limit ").push_bind(filter.per_page + 1);
    if let Window::Page(page) = filter.window {
        sql.push(" offset ").push_bind((page - 1).saturating_mul(filter.per_page));
    }
    sql
}

fn push_filter(sql: &mut QueryBuilder<Postgres>, filter: &UserFilter) {
    sql.push(" where deleted_at is null");
    // As a literal, so that the index of the admins is found.
    match filter.role {
        Some(Role::Admin) => sql.push(" and role = 'admin'"),
        Some(Role::User) => sql.push(" and role = 'user'"),
        None => sql,
    };
    if let Some(search) = &filter.search {
        // Folded as the column is.
        sql.push(" and search like lower(")
            .push_bind(format!("%{}%", escape(search)))
            .push(r#"::text collate "und-x-icu") collate "C""#);
    }
}

/// What is searched for has no wildcards.
fn escape(search: &str) -> String {
    let mut escaped = String::with_capacity(search.len());
    for character in search.chars() {
        if matches!(character, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use rstest::rstest;
    use uuid::Uuid;

    use super::*;

    fn filter(sort: Sort, window: Window) -> UserFilter {
        UserFilter { sort, order: Order::Desc, role: None, search: None, per_page: 20, window, total: false }
    }

    fn after(sort: Sort) -> Window {
        let filter = filter(sort, Window::Page(1));
        let view = UserView {
            id: Uuid::nil(),
            email: "a@x.io".into(),
            name: "Al".into(),
            role: Role::User,
            version: 1,
            created_at: DateTime::default(),
            updated_at: DateTime::default(),
        };
        Window::After(Cursor::after(&filter, &view))
    }

    #[rstest]
    #[case::page(
        filter(Sort::Name, Window::Page(3)),
        " where deleted_at is null order by name desc, id desc limit $1 offset $2"
    )]
    #[case::cursor(
        filter(Sort::CreatedAt, after(Sort::CreatedAt)),
        " where deleted_at is null and (created_at, id) < ($1, $2) order by created_at desc, id desc limit $3"
    )]
    #[case::unique(
        filter(Sort::Email, after(Sort::Email)),
        " where deleted_at is null and email < $1 order by email desc limit $2"
    )]
    fn each_window_has_its_shape(#[case] filter: UserFilter, #[case] shape: &str) {
        assert!(page(&filter).sql().as_str().ends_with(shape));
    }

    #[test]
    fn wildcards_are_taken_literally() {
        assert_eq!(escape(r"50%_\é"), r"50\%\_\\é");
    }
}
