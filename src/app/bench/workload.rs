//! The messages of the bench.

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use crate::infrastructure::postgres::bench::user_id;
use crate::infrastructure::rabbitmq::load::Request;

/// A step through the users that meets each of them before it meets one again, in no order an index would like.
const STRIDE: u64 = 7919;

/// A new name for a user, never the one before.
pub(super) fn rename(n: u64, users: u64) -> Request {
    static NAMES: AtomicU64 = AtomicU64::new(1);
    let name = NAMES.fetch_add(1, Ordering::Relaxed);
    let id = user_id(n.wrapping_mul(STRIDE) % users.max(1));
    Request {
        kind: "user.update.v1",
        message_id: Uuid::now_v7(),
        body: format!(r#"{{"id":"{id}","name":"Bench Name {name}"}}"#),
    }
}

pub(super) fn get(n: u64, users: u64) -> Request {
    let id = user_id(n.wrapping_mul(STRIDE) % users.max(1));
    Request { kind: "user.get.v1", message_id: Uuid::now_v7(), body: format!(r#"{{"id":"{id}"}}"#) }
}

pub(super) fn create() -> Request {
    let message_id = Uuid::now_v7();
    Request {
        kind: "user.create.v1",
        message_id,
        body: format!(
            r#"{{"email":"{}@new.example.com","name":"Bench Newcomer","password":"correct horse battery"}}"#,
            message_id.simple()
        ),
    }
}
