//! Our own share of a command, without servers: what it costs to decode, to execute and to encode.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::sync::Arc;

use divan::{Bencher, black_box, counter::ItemsCount};
use uuid::Uuid;

use roster::application::actor::Grant;
use roster::application::batch::Runner;
use roster::application::command;
use roster::application::dto::{EventPage, EventView, PageMeta, UserView, render};
use roster::application::error::Failure;
use roster::application::judge::{Judge, ReplyPatterns};
use roster::application::kept::Ladder;
use roster::application::message::{MessageKey, Properties, RawMessage};
use roster::application::ports::{
    Changes, Locks, NewEvent, Patience, Pending, ReadModel, Seen, Services, Store, Transaction,
};
use roster::application::query::{EventFilter, UserFilter, UserKey};
use roster::application::task::Task;
use roster::application::workspace::{Needs, Workspace};
use roster::domain::{Email, Id, PasswordHash, Role, User, UserName};
use roster::infrastructure::clock::SystemClock;
use roster::infrastructure::crypto::SecretVault;
use roster::infrastructure::passwords::Argon2Passwords;

/// A batch, as the worker takes it by default.
const BATCH: u128 = 256;

fn main() {
    divan::main();
}

/// From properties and bytes to a command that knows who sent it.
#[divan::bench]
fn decode(bencher: Bencher) {
    let judge = judge();
    bencher.counter(ItemsCount::new(1_u32)).with_inputs(|| rename(7)).bench_values(|raw| judge.command(raw));
}

/// A batch of commands against loaded users: what each becomes, and everything that is to be written.
#[divan::bench]
fn execute(bencher: Bencher) {
    let judge = judge();
    let runner = Runner {
        store: Memory,
        services: judge.services.clone(),
        patience: NoPatience,
        ladder: Ladder::new(Vec::new()),
        dedupe_days: 7,
        fresh_id: Uuid::now_v7,
    };
    let tasks: Vec<Task> = (0..BATCH).map(|n| judge.command(rename(n))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bencher
        .counter(ItemsCount::new(tasks.len()))
        .bench_local(|| runtime.block_on(runner.run(black_box(&tasks))).unwrap());
}

/// An event as it is published.
#[divan::bench]
fn encode(bencher: Bencher) {
    let event = NewEvent {
        id: Uuid::now_v7(),
        subject: Uuid::now_v7(),
        sequence: 42,
        kind: "user.renamed.v1".into(),
        data: r#"{"name":"Ada Lovelace"}"#.to_owned(),
        occurred_at: chrono::Utc::now(),
        causation_id: Uuid::now_v7(),
        correlation_id: None,
        actor: "service:billing".to_owned(),
        traceparent: None,
        tracestate: None,
    };
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench(|| render(black_box(&event), "/roster", "urn:roster:schema:"));
}

fn rename(n: u128) -> RawMessage {
    let properties = Properties {
        kind: Some("user.update.v1".into()),
        message_id: Some(Uuid::now_v7().to_string()),
        reply_to: Some("amq.rabbitmq.reply-to.g1h2AA5yZXBseUAx.x==".into()),
        content_type: Some("application/json".into()),
        user_id: Some("billing".into()),
        ..Properties::default()
    };
    let body = format!(r#"{{"id":"{}","name":"Grace Hopper"}}"#, Uuid::from_u128(n));
    RawMessage { properties, body: body.into_bytes() }
}

fn judge() -> Judge {
    let secret = "a secret of a benchmark, 32 bytes or more".to_owned();
    Judge {
        registry: command::registry().unwrap(),
        services: Services {
            passwords: Arc::new(Argon2Passwords::default()),
            read: Arc::new(Nothing),
            vault: Arc::new(SecretVault::new(&secret.into()).unwrap()),
            clock: Arc::new(SystemClock),
        },
        grants: vec![("billing".into(), Grant::Admin)],
        reply_to: ReplyPatterns::default(),
    }
}

/// A store that has every user and forgets what is written.
struct Memory;

impl Store for Memory {
    type Transaction = Self;

    async fn begin(&self, _: Locks) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Transaction for Memory {
    async fn load(&mut self, needs: &Needs) -> Result<Workspace, Failure> {
        let user = |id: &Id<User>| {
            let email = Email::parse("ada@example.com").unwrap();
            let name = UserName::parse("Ada Lovelace").unwrap();
            let user = User::register(
                *id,
                email,
                name,
                Role::User,
                PasswordHash::new("hash".into()),
                chrono::Utc::now(),
            );
            User::rehydrate(user.state().clone())
        };
        Ok(Workspace::new(needs.users.iter().map(user).collect()))
    }

    async fn seen(&mut self, _: &[MessageKey]) -> Result<Vec<Seen>, Failure> {
        Ok(Vec::new())
    }

    async fn commit(self, changes: Changes) -> Result<(), Failure> {
        black_box(&changes);
        Ok(())
    }

    async fn rollback(self) {}
}

struct NoPatience;

impl Patience for NoPatience {
    async fn pause(&self, _: u32) {}

    fn jitter(&self) -> f64 {
        0.5
    }
}

/// Knows nobody.
struct Nothing;

impl ReadModel for Nothing {
    fn user(&self, _: UserKey) -> Pending<'_, Result<Option<UserView>, Failure>> {
        Box::pin(async { Ok(None) })
    }

    fn users<'a>(&'a self, _: &'a UserFilter) -> Pending<'a, Result<(Vec<UserView>, PageMeta), Failure>> {
        Box::pin(std::future::pending())
    }

    fn events<'a>(&'a self, _: &'a EventFilter) -> Pending<'a, Result<(Vec<EventView>, EventPage), Failure>> {
        Box::pin(std::future::pending())
    }

    fn password_hash(&self, _: Id<User>) -> Pending<'_, Result<Option<PasswordHash>, Failure>> {
        Box::pin(async { Ok(None) })
    }
}
