//! Handlers are tested with plain values: a workspace in, a reply or a refusal and events out.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::application::actor::{Actor, Grant};
use crate::application::error::{Code, Detail};
use crate::application::fields::Fields;
use crate::application::message::Message;
use crate::application::registry::{Command, Context, Decline};
use crate::application::workspace::Workspace;
use crate::domain::{Id, PasswordHash, Role, User, UserEvent};

pub const ADA: u128 = 1;
pub const BOB: u128 = 2;

pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

pub fn id(n: u128) -> Id<User> {
    Id::new(Uuid::from_u128(n))
}

fn stored(n: u128, email: &str) -> User {
    let user = User::register(
        id(n),
        email.parse().unwrap(),
        "Somebody".parse().unwrap(),
        Role::User,
        PasswordHash::new("old hash".into()),
        now(),
    );
    User::rehydrate(user.state().clone())
}

/// Ada and Bob, both at version 1.
pub fn two_users() -> Workspace {
    Workspace::new(vec![stored(ADA, "ada@example.com"), stored(BOB, "bob@example.com")])
}

pub fn admin() -> Actor {
    Actor::Service { name: "backoffice".into(), grant: Grant::Admin }
}

pub fn read<M: Message>(payload: Value) -> Result<M, Vec<Detail>> {
    let Value::Object(map) = payload else { unreachable!("tests give objects") };
    M::read(Fields::new(map))
}

/// Runs a command as an admin; the events that it recorded, or the code that refused it.
pub fn run<C: Command>(command: &C, work: &mut Workspace) -> Result<(C::Data, Vec<UserEvent>), Code> {
    let actor = admin();
    let context = Context { now: now(), actor: &actor, fresh_id: Uuid::from_u128(99) };
    match command.execute(&context, work) {
        Ok(data) => Ok((data, work.merge().into_iter().map(|(_, _, event)| event).collect())),
        Err(Decline::Refused(refusal)) => {
            work.discard();
            Err(refusal.code)
        }
        Err(Decline::Stale) => unreachable!("no test here prepares"),
    }
}

#[test]
fn two_commands_of_one_name_are_refused() {
    use super::*;
    let twice = Registry::default().command::<CreateUser>().unwrap().command::<CreateUser>();
    assert_eq!(twice.unwrap_err(), DuplicateName("user.create.v1"));
}

#[test]
fn an_older_version_is_upcast_in_one_place() {
    // v0 called the name `full_name`.
    let registry = super::registry()
        .unwrap()
        .older("user.update.v0", "user.update.v1", |mut payload| {
            if let Some(name) = payload.remove("full_name") {
                payload.insert("name".into(), name);
            }
            payload
        })
        .unwrap();
    let payload = json!({"id": Uuid::from_u128(ADA), "full_name": "Ada Lovelace"});
    let Value::Object(payload) = payload else { unreachable!("an object") };
    let command = registry.read("user.update.v0", payload).unwrap().unwrap();
    let mut work = two_users();
    let actor = admin();
    let context = Context { now: now(), actor: &actor, fresh_id: Uuid::from_u128(99) };
    let reply = command.execute(&context, &mut work).unwrap();
    assert!(reply.contains("Ada Lovelace"));
}
