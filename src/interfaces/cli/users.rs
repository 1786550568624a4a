//! `roster users list|get`: users as a table that fits the terminal, or as JSON.

use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::client::{CallOptions, Client, PageMeta, RawReply, UserView};

use super::caller::CallerArgs;
use super::outcome::{Outcome, failure, reply};
use super::screen::{note, write_line};

/// Look at users
#[derive(Debug, Clone, Args)]
pub struct UsersArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// List users, page by page
    List(ListArgs),
    /// Show one user
    Get(GetArgs),
}

#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Only users with this role: user or admin
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,

    /// Only users with this in their name or e-mail address; 3 to 100 characters, no wildcards
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,

    /// What to sort by: created_at (if left out), updated_at, email or name
    #[arg(long, value_name = "FIELD")]
    pub sort: Option<String>,

    /// asc or desc; if left out, desc by time and asc by email or name
    #[arg(long, value_name = "ORDER")]
    pub order: Option<String>,

    /// Users per page, 1 to 100 [default: 20]
    #[arg(long, value_name = "N")]
    pub per_page: Option<u64>,

    /// Which page, from 1
    #[arg(long, value_name = "N", conflicts_with = "cursor")]
    pub page: Option<u64>,

    /// Where to go on, as the page before said; as fast on the last page as on the first
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,

    /// The reply as it came, for machines
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub caller: CallerArgs,
}

#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// The user's id or e-mail address
    #[arg(value_name = "ID|EMAIL")]
    pub user: String,

    /// The reply as it came, for machines
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub caller: CallerArgs,
}

/// Asks and shows.
pub async fn run(args: UsersArgs) -> Outcome {
    match args.what {
        What::List(args) => list(args).await,
        What::Get(args) => get(args).await,
    }
}

async fn list(args: ListArgs) -> Outcome {
    let payload = filters(&args);
    show(&args.caller, "user.list.v1", payload, args.json, |raw| {
        let answer = raw.read::<Vec<UserView>, PageMeta>();
        answer.map(|answer| {
            answer.map(|answer| {
                let footer = answer.meta.as_ref().map(|meta| footer(&answer.data, meta));
                (users_table(&answer.data), footer)
            })
        })
    })
    .await
}

async fn get(args: GetArgs) -> Outcome {
    let field = if Uuid::try_parse(&args.user).is_ok() { "id" } else { "email" };
    let payload = Map::from_iter([(field.to_owned(), Value::from(args.user))]);
    show(&args.caller, "user.get.v1", payload, args.json, |raw| {
        let answer = raw.read::<UserView, serde::de::IgnoredAny>();
        answer.map(|answer| answer.map(|answer| (user_table(&answer.data), None)))
    })
    .await
}

type Shown = Result<Result<(Table, Option<String>), crate::client::Refusal>, crate::client::BadReply>;

async fn show(
    caller: &CallerArgs,
    kind: &str,
    payload: Map<String, Value>,
    json: bool,
    read: impl Fn(&RawReply) -> Shown,
) -> Outcome {
    let raw = match ask(caller, kind, payload).await {
        Ok(raw) => raw,
        Err(error) => return failure(&error),
    };
    match read(&raw) {
        Ok(Ok((table, footer))) if !json => {
            if write_line(table.trim_fmt().as_bytes()).is_err() {
                return Outcome::Done;
            }
            if let Some(footer) = footer {
                note(&footer);
            }
            Outcome::Done
        }
        Ok(Err(refusal)) if !json => failure(&crate::client::Error::Refused(refusal)),
        _ => reply(&raw),
    }
}

async fn ask(
    caller: &CallerArgs,
    kind: &str,
    payload: Map<String, Value>,
) -> Result<RawReply, crate::client::Error> {
    let client: Client = caller.connect().await?;
    let answer = client.query_json(kind, Value::from(payload).to_string(), CallOptions::default()).await;
    client.close().await;
    answer
}

fn filters(args: &ListArgs) -> Map<String, Value> {
    let texts = [
        ("role", &args.role),
        ("search", &args.search),
        ("sort", &args.sort),
        ("order", &args.order),
        ("cursor", &args.cursor),
    ];
    let numbers = [("per_page", args.per_page), ("page", args.page)];
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, Value::from(text.clone()?))));
    let numbers = numbers.into_iter().filter_map(|(name, number)| Some((name, Value::from(number?))));
    texts.chain(numbers).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn users_table(users: &[UserView]) -> Table {
    let mut table = table();
    table.set_header(["ID", "EMAIL", "NAME", "ROLE", "VERSION", "CREATED"]);
    for user in users {
        table.add_row([
            user.id.to_string(),
            user.email.clone(),
            user.name.clone(),
            user.role.as_str().to_owned(),
            user.version.to_string(),
            user.created_at.format("%F %R").to_string(),
        ]);
    }
    table
}

fn user_table(user: &UserView) -> Table {
    let mut table = table();
    table.add_rows([
        ["id", &user.id.to_string()],
        ["email", &user.email],
        ["name", &user.name],
        ["role", user.role.as_str()],
        ["version", &user.version.to_string()],
        ["created", &user.created_at.to_rfc3339()],
        ["updated", &user.updated_at.to_rfc3339()],
    ]);
    table
}

/// `20 of 134 users; next: --cursor …`
fn footer(users: &[UserView], meta: &PageMeta) -> String {
    let shown = users.len();
    let mut line = match (meta.total, meta.page) {
        (Some(total), Some(page)) => format!("page {page}: {shown} of {total} users"),
        (Some(total), None) => format!("{shown} of {total} users"),
        (None, _) => format!("{shown} users"),
    };
    match &meta.next_cursor {
        Some(cursor) => line.push_str(&format!("; next: --cursor {cursor}")),
        None => line.push_str("; no more"),
    }
    line
}
