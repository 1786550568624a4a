//! The path of commands that fail: tried again, dead letters, and what operators do with them.

mod hands_on;
mod killers;
mod ladder;
mod parked;
mod replays;
mod waiting;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use crate::support::history::Failed;
use crate::support::{Stage, eventually, tables};

/// Makes every change to a user called like this fail, as a bug in the worker or its schema would.
async fn forbid(stage: &Stage, names: &str) {
    run(
        stage,
        &format!(
            "create or replace function refuse() returns trigger language plpgsql as $$ begin
                if new.name like '{names}' then raise exception 'forbidden' using errcode = '42000'; end if;
                return new;
            end $$;
            create or replace trigger refuse before insert or update on users
                for each row execute function refuse()"
        ),
    )
    .await;
}

/// The cause is gone.
async fn allow(stage: &Stage) {
    run(stage, "drop trigger refuse on users").await;
}

async fn run(stage: &Stage, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&stage.pool).await.expect("the statement runs");
}

/// Waits until exactly so many commands are kept, all of them as `fits` says.
async fn kept(stage: &Stage, count: usize, fits: impl Fn(&Failed) -> bool) -> Vec<Failed> {
    eventually(&format!("{count} commands are kept"), async || {
        let failed = tables::failed(&stage.pool).await;
        match failed.len() == count && failed.iter().all(&fits) {
            true => Ok(failed),
            false => Err(format!("{failed:?}")),
        }
    })
    .await
}

async fn dead(stage: &Stage, count: usize) -> Vec<Failed> {
    kept(stage, count, |row| row.state == "dead").await
}

async fn nothing_kept(stage: &Stage) {
    kept(stage, 0, |_| true).await;
}

/// Waits until the last try of each is over and the next is far away.
async fn attempts(stage: &Stage, attempts: i64) {
    eventually(&format!("{attempts} attempts"), async || {
        let rows = sqlx::query("select attempts::bigint, claimed_until is null from failed_commands");
        let rows = rows.fetch_all(&stage.pool).await.expect("failed commands");
        let all = rows.iter().all(|row| row.get::<i64, _>(0) == attempts && row.get::<bool, _>(1));
        if all && !rows.is_empty() { Ok(()) } else { Err(format!("{} rows", rows.len())) }
    })
    .await;
}

/// Waits until so many callers wait for the one command that is kept.
async fn waiters(stage: &Stage, count: i32) {
    eventually(&format!("{count} callers wait"), async || {
        let row = sqlx::query("select jsonb_array_length(waiters) from failed_commands");
        match row.fetch_one(&stage.pool).await.expect("a failed command").get::<i32, _>(0) {
            found if found == count => Ok(()),
            found => Err(found.to_string()),
        }
    })
    .await;
}

/// What `roster dead …` prints, which must succeed.
#[track_caller]
fn roster(stage: &Stage, arguments: &[&str]) -> String {
    let (code, out, err) = roster_says(stage, arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

/// Exit code, standard output and standard error of `roster dead …`.
#[track_caller]
fn roster_says(stage: &Stage, arguments: &[&str]) -> (i32, String, String) {
    let output = stage.cli(&[&["dead"], arguments].concat());
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn list(stage: &Stage, arguments: &[&str]) -> Vec<Value> {
    let out = roster(stage, &[&["list", "--json"], arguments].concat());
    let listed: Value = serde_json::from_str(&out).unwrap();
    listed["data"].as_array().unwrap().clone()
}

/// Names of one user's events, in their order.
async fn names(stage: &Stage, id: Uuid) -> Vec<String> {
    let events = tables::events(&stage.pool).await;
    let names =
        events.into_iter().filter(|event| event.subject == id).map(|event| event.data["name"].clone());
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}
