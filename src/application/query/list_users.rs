//! `user.list.v1`: users by page or by cursor, sorted and filtered.

use std::fmt::Write as _;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{NoAnswer, Query};
use crate::application::actor::Access;
use crate::application::dto::{PageMeta, Reply, UserView};
use crate::application::error::{Detail, Reason};
use crate::application::fields::{Fields, Noted, Optional};
use crate::application::message::Message;
use crate::application::ports::ReadModel;
use crate::domain::Role;

const DEFAULT_PER_PAGE: i64 = 20;
const MAX_PER_PAGE: i64 = 100;

/// Asks for users. Sorted by `created_at`, newest first, unless told otherwise; ties by `id`.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListUsers {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000_000_i64))]
    pub page: Option<i64>,
    /// 20 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub per_page: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<Sort>,
    /// If absent, `desc` by time and `asc` by `email` or `name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Part of a name or an e-mail address, without regard to case; no wildcards.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 100))]
    pub search: Option<String>,
    /// `meta.next_cursor` of the page before; not together with `page`, and with the same `sort`, `order`, `role` and
    /// `search`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub cursor: Option<String>,
    /// Whether to count them all. True with `page`, false with `cursor`, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<bool>,
    #[serde(skip)]
    #[schemars(skip)]
    opened: Option<Cursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    #[default]
    CreatedAt,
    UpdatedAt,
    Email,
    Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Asc,
    Desc,
}

/// What [`ReadModel::users`] is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserFilter {
    pub sort: Sort,
    pub order: Order,
    pub role: Option<Role>,
    pub search: Option<String>,
    pub per_page: i64,
    pub window: Window,
    /// Whether to count all that the filter lets through.
    pub total: bool,
}

/// Where in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Window {
    /// From 1.
    Page(i64),
    After(Cursor),
}

/// The last user of a page, and what the page was sorted and filtered by. Opaque to callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    #[serde(rename = "s")]
    sort: Sort,
    #[serde(rename = "o")]
    order: Order,
    #[serde(rename = "r")]
    role: Option<Role>,
    #[serde(rename = "q")]
    search: Option<String>,
    /// What the last user is sorted by.
    #[serde(rename = "a")]
    pub after: SortKey,
    #[serde(rename = "i")]
    pub id: Uuid,
}

/// A value that users are sorted by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortKey {
    #[serde(rename = "t")]
    Time(DateTime<Utc>),
    #[serde(rename = "w")]
    Text(String),
}

impl Cursor {
    /// The cursor that goes on after `last`.
    #[must_use]
    pub fn after(filter: &UserFilter, last: &UserView) -> Self {
        let after = match filter.sort {
            Sort::CreatedAt => SortKey::Time(last.created_at),
            Sort::UpdatedAt => SortKey::Time(last.updated_at),
            Sort::Email => SortKey::Text(last.email.clone()),
            Sort::Name => SortKey::Text(last.name.clone()),
        };
        Self {
            sort: filter.sort,
            order: filter.order,
            role: filter.role,
            search: filter.search.clone(),
            after,
            id: last.id,
        }
    }

    /// Hexadecimal, so that it passes through anything.
    #[must_use]
    pub fn seal(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        json.iter().fold(String::with_capacity(json.len() * 2), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    fn open(text: &str) -> Option<Self> {
        let nibbles: Option<Vec<u8>> =
            text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let (pairs, []) = nibbles.as_deref()?.as_chunks::<2>() else { return None };
        let json: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        let cursor: Self = serde_json::from_slice(&json).ok()?;
        let fits = match cursor.sort {
            Sort::CreatedAt | Sort::UpdatedAt => {
                matches!(cursor.after, SortKey::Time(time) if (0..10_000).contains(&time.year()))
            }
            Sort::Email | Sort::Name => matches!(&cursor.after, SortKey::Text(text) if !text.contains('\0')),
        };
        fits.then_some(cursor)
    }
}

impl std::fmt::Display for SortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Time(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true)),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl ListUsers {
    fn filter(self) -> UserFilter {
        let sort = self.sort.unwrap_or_default();
        let order = self.order.unwrap_or(match (self.sort, sort) {
            // Newest first unless told otherwise; names and addresses read from A to Z.
            (None, _) | (_, Sort::CreatedAt | Sort::UpdatedAt) => Order::Desc,
            _ => Order::Asc,
        });
        UserFilter {
            sort,
            order,
            role: self.role,
            search: self.search,
            per_page: self.per_page.unwrap_or(DEFAULT_PER_PAGE),
            total: self.total.unwrap_or(self.opened.is_none()),
            window: self.opened.map_or(Window::Page(self.page.unwrap_or(1)), Window::After),
        }
    }

    fn opens(&self, cursor: &Cursor) -> bool {
        let filter = self.clone().filter();
        (filter.sort, filter.order, filter.role, &filter.search)
            == (cursor.sort, cursor.order, cursor.role, &cursor.search)
    }
}

impl Message for ListUsers {
    const NAME: &'static str = "user.list.v1";
    type Data = Vec<UserView>;
    type Meta = PageMeta;

    fn read(mut fields: Fields) -> Result<Self, Vec<Detail>> {
        // Beyond this the offset would not fit the database's number.
        let page = fields.integer("page", 1..=10_000_000_000);
        let per_page = fields.integer("per_page", 1..=MAX_PER_PAGE);
        let sort = fields.word(
            "sort",
            &[
                ("created_at", Sort::CreatedAt),
                ("updated_at", Sort::UpdatedAt),
                ("email", Sort::Email),
                ("name", Sort::Name),
            ],
        );
        let order = fields.word("order", &[("asc", Order::Asc), ("desc", Order::Desc)]);
        let role = fields.role("role");
        let search = fields.text("search", 3..=100);
        let cursor = fields.text("cursor", 1..=4096);
        let total = fields.boolean("total");
        if matches!((&page, &cursor), (Ok(Some(_)), Ok(Some(_)))) {
            fields.refuse("cursor", Reason::InvalidValue, "either page or cursor, not both");
        }
        let opened = open(&mut fields, &cursor);
        let payload = (|| {
            Some(Self {
                page: page.ok()?,
                per_page: per_page.ok()?,
                sort: sort.ok()?,
                order: order.ok()?,
                role: role.ok()?,
                search: search.ok()?,
                cursor: cursor.ok()?,
                total: total.ok()?,
                opened: opened.ok()?,
            })
        })();
        if let Some(payload) = &payload
            && payload.opened.as_ref().is_some_and(|cursor| !payload.opens(cursor))
        {
            fields.refuse("cursor", Reason::InvalidValue, "belongs to another sort or filter");
        }
        fields.finish(payload)
    }
}

fn open(fields: &mut Fields, cursor: &Optional<String>) -> Optional<Cursor> {
    match cursor {
        Ok(Some(text)) => Cursor::open(text).map(Some).ok_or_else(|| {
            fields.refuse("cursor", Reason::InvalidValue, "is not a cursor that was given out");
            Noted
        }),
        _ => Ok(None),
    }
}

impl Query for ListUsers {
    const ACCESS: Access = Access::AdminOrReader;

    async fn answer(self, read: &dyn ReadModel) -> Result<Reply<Vec<UserView>, PageMeta>, NoAnswer> {
        let (data, meta) = read.users(&self.filter()).await?;
        Ok(Reply { data, meta: Some(meta) })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn read(payload: Value) -> Result<ListUsers, Vec<Detail>> {
        let Value::Object(map) = payload else { unreachable!("an object") };
        ListUsers::read(Fields::new(map))
    }

    fn cursor() -> String {
        let filter = read(json!({"sort": "email", "role": "admin"})).unwrap().filter();
        let last = UserView {
            id: Uuid::from_u128(1),
            email: "a@x.io".into(),
            name: "Al".into(),
            role: Role::Admin,
            version: 1,
            created_at: DateTime::default(),
            updated_at: DateTime::default(),
        };
        Cursor::after(&filter, &last).seal()
    }

    #[test]
    fn a_cursor_goes_on_where_the_page_ended() {
        let query = read(json!({"sort": "email", "role": "admin", "cursor": cursor()})).unwrap();
        let filter = query.filter();
        assert!(!filter.total);
        let Window::After(cursor) = filter.window else { unreachable!("a cursor was given") };
        assert_eq!((cursor.after, cursor.id), (SortKey::Text("a@x.io".into()), Uuid::from_u128(1)));
    }

    #[rstest]
    #[case::other_sort(json!({"sort": "name", "role": "admin", "cursor": cursor()}))]
    #[case::other_order(json!({"sort": "email", "order": "desc", "role": "admin", "cursor": cursor()}))]
    #[case::other_filter(json!({"sort": "email", "cursor": cursor()}))]
    #[case::page_too(json!({"sort": "email", "role": "admin", "page": 1, "cursor": cursor()}))]
    #[case::nonsense(json!({"cursor": "nonsense"}))]
    #[case::odd_length(json!({"cursor": "abc"}))]
    fn a_cursor_that_does_not_fit_is_refused(#[case] payload: Value) {
        let details = read(payload).unwrap_err();
        assert_eq!(details[0].field.as_deref(), Some("cursor"));
    }

    #[test]
    fn the_newest_come_first_unless_told_otherwise() {
        let filter = read(json!({})).unwrap().filter();
        assert_eq!((filter.sort, filter.order, filter.per_page), (Sort::CreatedAt, Order::Desc, 20));
        assert_eq!(filter.window, Window::Page(1));
        assert!(filter.total);
    }
}
