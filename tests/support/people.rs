//! The users that most tests begin with.

use serde_json::{Value, json};
use uuid::Uuid;

use super::caller::Caller;

/// What it takes to create `name`: `ada` gets `ada@example.com` and the name `Ada`.
pub fn person(name: &str) -> Value {
    let mut letters = name.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let capital: String = first.chain(letters).collect();
    json!({
        "email": format!("{name}@example.com"),
        "name": capital,
        "password": format!("{name} keeps a secret"),
    })
}

impl Caller {
    /// Creates a [`person`] and returns its id.
    pub async fn create(&self, name: &str) -> Uuid {
        self.ask("user.create.v1", person(name)).await.id()
    }

    /// Creates `count` persons `<prefix>0`, `<prefix>1` … at once.
    pub async fn create_many(&self, prefix: &str, count: usize) -> Vec<Uuid> {
        let requests: Vec<_> =
            (0..count).map(|n| self.request("user.create.v1", person(&format!("{prefix}{n}")))).collect();
        let replies = self.ask_all(&requests).await;
        replies.iter().map(super::Reply::id).collect()
    }
}
