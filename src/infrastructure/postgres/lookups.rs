//! Point lookups: those that wait together share one statement.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::application::dto::UserView;
use crate::application::error::Failure;
use crate::application::query::UserKey;
use crate::domain::{Email, Role};

use super::errors;
use super::loan::answered;
use super::read_model::read;
use super::shelf::Shelf;
use crate::lifecycle::vital;

/// How many share a statement.
const TOGETHER: usize = 256;

type Answer = Result<Option<UserView>, Failure>;
type Queue = mpsc::Receiver<(UserKey, oneshot::Sender<Answer>)>;

/// As many statements run at the same time as there are connections for them.
#[derive(Debug)]
pub struct Lookups {
    queue: mpsc::Sender<(UserKey, oneshot::Sender<Answer>)>,
    workers: Vec<JoinHandle<()>>,
}

impl Lookups {
    pub fn new(shelf: &Arc<Shelf>) -> Self {
        let (queue, waiting) = mpsc::channel(TOGETHER);
        let waiting = Arc::new(Mutex::new(waiting));
        let workers = (0..shelf.size())
            .map(|_| tokio::spawn(vital(work(Arc::clone(shelf), Arc::clone(&waiting)))))
            .collect();
        Self { queue, workers }
    }

    pub async fn user(&self, key: UserKey) -> Answer {
        let (sender, answer) = oneshot::channel();
        let gone = || errors::permanent("the lookups have ended");
        self.queue.send((key, sender)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.abort();
        }
    }
}

async fn work(shelf: Arc<Shelf>, waiting: Arc<Mutex<Queue>>) {
    loop {
        let mut batch = Vec::new();
        if waiting.lock().await.recv_many(&mut batch, TOGETHER).await == 0 {
            return;
        }
        // A lookup whose caller is gone costs nothing more.
        batch.retain(|(_, sender)| !sender.is_closed());
        let found = read(&shelf, || find(&shelf, batch.iter().map(|(key, _)| key))).await;
        for (key, sender) in batch {
            let answer = match &found {
                Ok(users) => Ok(users.get(&key).cloned()),
                Err(failure) => Err(failure.clone()),
            };
            // Nobody waits any more: fine.
            let _ = sender.send(answer);
        }
    }
}

async fn find(
    shelf: &Shelf,
    keys: impl Iterator<Item = &UserKey>,
) -> Result<HashMap<UserKey, UserView>, Failure> {
    let (mut ids, mut emails) = (Vec::new(), Vec::new());
    for key in keys {
        match key {
            UserKey::Id(id) => ids.push(id.uuid()),
            UserKey::Email(email) => emails.push(email.as_str()),
        }
    }
    let mut lent = shelf.lend().await?;
    let mut found = HashMap::with_capacity(ids.len() + emails.len());
    if !ids.is_empty() {
        let query = sqlx::query_as!(
            UserRow,
            // From the end, as when a batch reads its users.
            r#"select id as "id!", email as "email!", name as "name!", role as "role!", version as "version!",
                created_at as "created_at!", updated_at as "updated_at!"
            from unnest($1::uuid[]) as key
            cross join lateral (
                select * from users where id >= key and id <= key order by id desc limit 1
            ) as found where deleted_at is null"#,
            &ids
        );
        let rows = answered(query.fetch_all(lent.connection()?)).await;
        for row in lent.note(rows)? {
            found.insert(UserKey::Id(crate::domain::Id::new(row.id)), row.view()?);
        }
    }
    if !emails.is_empty() {
        let query = sqlx::query_as!(
            UserRow,
            r#"select found.id as "id!", found.email as "email!", name as "name!", role as "role!",
                version as "version!", created_at as "created_at!", updated_at as "updated_at!"
            from identities
            cross join lateral (
                select * from users where id >= identities.id and id <= identities.id order by id desc limit 1
            ) as found where identities.email = any($1)"#,
            &emails as _
        );
        let rows = answered(query.fetch_all(lent.connection()?)).await;
        for row in lent.note(rows)? {
            let email = Email::parse(&row.email)
                .map_err(|_| errors::permanent("users.email holds what no user may have"))?;
            found.insert(UserKey::Email(email), row.view()?);
        }
    }
    Ok(found)
}

/// The columns of a [`UserView`].
#[derive(sqlx::FromRow)]
pub struct UserRow {
    id: Uuid,
    email: String,
    name: String,
    role: String,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl UserRow {
    pub fn view(self) -> Result<UserView, Failure> {
        Ok(UserView {
            id: self.id,
            email: self.email,
            name: self.name,
            role: Role::parse(&self.role)
                .map_err(|_| errors::permanent("users.role holds what no user may have"))?,
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
