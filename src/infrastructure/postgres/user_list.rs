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
        let mut count = total(filter);
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

/// Who was written since the directory was last brought up to date. Gathered into one array, so that the planner
/// takes it for a few, whatever it thinks of the table: it would otherwise give up hashing them, or scan the users.
const FRESH: &str = "with fresh as materialized \
    (select array_agg(id) as ids from user_changes, unnest(user_ids) as id)";
const IS_FRESH: &str = "id = any((select ids from fresh)::uuid[])";
const IS_SETTLED: &str = "id not in (select unnest(ids) from fresh)";
/// How the directory's column is made.
const SEARCH: &str = "user_search(name, email)";

/// The pieces of SQL are chosen here, never made of what a caller sent: values are bound.
///
/// One statement, hence one snapshot: of each user the directory or the table itself holds the present state,
/// and the changes that are not folded in yet tell which.
fn page(filter: &UserFilter) -> QueryBuilder<Postgres> {
    const COLUMNS: &str = "id, email, name, role, version, created_at, updated_at";
    let order = order_by(filter);
    let skipped = match filter.window {
        Window::Page(page) => (page - 1).saturating_mul(filter.per_page),
        Window::After(_) => 0,
    };
    let wanted = filter.per_page + 1;
    let mut sql = QueryBuilder::new(format!("{FRESH} select {COLUMNS} from ("));
    sql.push(format!("(select {COLUMNS} from user_directory where {IS_SETTLED}"));
    push_filter(&mut sql, filter, "search");
    push_window(&mut sql, filter);
    sql.push(&order).push(" limit ").push_bind(skipped.saturating_add(wanted));
    sql.push(format!(") union all (select {COLUMNS} from users where {IS_FRESH} and deleted_at is null"));
    push_filter(&mut sql, filter, SEARCH);
    push_window(&mut sql, filter);
    sql.push(&order).push(" limit ").push_bind(skipped.saturating_add(wanted));
    sql.push(")) as present").push(&order).push(" limit ").push_bind(wanted);
    if skipped > 0 {
        sql.push(" offset ").push_bind(skipped);
    }
    sql
}

/// Counts the directory without asking of each whether it is fresh.
fn total(filter: &UserFilter) -> QueryBuilder<Postgres> {
    let mut sql =
        QueryBuilder::new(format!("{FRESH} select (select count(*) from user_directory where true"));
    push_filter(&mut sql, filter, "search");
    sql.push(format!(") - (select count(*) from user_directory where {IS_FRESH}"));
    push_filter(&mut sql, filter, "search");
    sql.push(format!(") + (select count(*) from users where {IS_FRESH} and deleted_at is null"));
    push_filter(&mut sql, filter, SEARCH);
    sql.push(")");
    sql
}

const fn column(sort: Sort) -> &'static str {
    match sort {
        Sort::CreatedAt => "created_at",
        Sort::UpdatedAt => "updated_at",
        Sort::Email => "email",
        Sort::Name => "name",
    }
}

/// Addresses are unique, and their index holds nothing beside them.
fn has_ties(sort: Sort) -> bool {
    sort != Sort::Email
}

fn order_by(filter: &UserFilter) -> String {
    let column = column(filter.sort);
    let direction = match filter.order {
        Order::Asc => "asc",
        Order::Desc => "desc",
    };
    if has_ties(filter.sort) {
        format!(" order by {column} {direction}, id {direction}")
    } else {
        format!(" order by {column} {direction}")
    }
}

fn push_window(sql: &mut QueryBuilder<Postgres>, filter: &UserFilter) {
    let Window::After(cursor) = &filter.window else { return };
    let column = column(filter.sort);
    let beyond = match filter.order {
        Order::Asc => ">",
        Order::Desc => "<",
    };
    let ties = has_ties(filter.sort);
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

fn push_filter(sql: &mut QueryBuilder<Postgres>, filter: &UserFilter, searched: &str) {
    // As a literal, so that the index of the admins is found.
    match filter.role {
        Some(Role::Admin) => sql.push(" and role = 'admin'"),
        Some(Role::User) => sql.push(" and role = 'user'"),
        None => sql,
    };
    if let Some(search) = &filter.search {
        // Folded as what is searched.
        sql.push(format!(" and {searched} like lower("))
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
    #[case::page(filter(Sort::Name, Window::Page(3)), "", " order by name desc, id desc limit $3 offset $4")]
    #[case::cursor(
        filter(Sort::CreatedAt, after(Sort::CreatedAt)),
        " and (created_at, id) < ($4, $5)",
        " order by created_at desc, id desc limit $7"
    )]
    #[case::unique(
        filter(Sort::Email, after(Sort::Email)),
        " and email < $3",
        " order by email desc limit $5"
    )]
    fn each_window_has_its_shape(#[case] filter: UserFilter, #[case] beyond: &str, #[case] order: &str) {
        let page = page(&filter);
        let sql = page.sql();
        assert!(sql.as_str().contains(&format!("deleted_at is null{beyond} order by")), "{sql:?}");
        assert!(sql.as_str().ends_with(&format!(") as present{order}")), "{sql:?}");
    }

    #[test]
    fn wildcards_are_taken_literally() {
        assert_eq!(escape(r"50%_\é"), r"50\%\_\\é");
    }
}
