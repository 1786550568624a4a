//! The decoder under test, as the worker runs it from a delivery to the lanes, and what it makes of one input. The
//! clock stands still, nothing is hashed and no database answers.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use roster::application::actor::Grant;
use roster::application::dto::{EventPage, EventView, PageMeta, UserView};
use roster::application::error::{Code, Failure, FailureKind, Refusal};
use roster::application::judge::{Answered, Judge, ReplyPatterns};
use roster::application::kept::KeptReason;
use roster::application::message::Fingerprint;
use roster::application::password::Password;
use roster::application::ports::{Clock, Passwords, Pending, ReadModel, Services, Vault};
use roster::application::query::{EventFilter, UserFilter, UserKey, Window};
use roster::application::task::{Task, Work};
use roster::domain::{Id, PasswordHash, User};
use roster::interfaces::amqp::{delivery_count, parked_for, raw};

use super::input::{Input, Way};

/// A second in 2026: 2026-11-21T12:00:00Z.
pub const NOW: i64 = 1_795_262_400;
/// Services that are known, and one that is not.
pub const ADMIN: &str = "backoffice";
pub const READER: &str = "reporting";

pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).expect("a time")
}

/// What became of an input.
#[derive(Debug)]
pub enum Verdict {
    Task(Box<Task>),
    /// `None`: nobody to answer.
    Query(Option<Answered>),
}

/// The decoder.
pub struct Decoder {
    judge: Judge,
    asked: Arc<Asked>,
}

impl Decoder {
    pub fn new() -> Self {
        let asked = Arc::new(Asked::default());
        let judge = Judge {
            registry: roster::application::command::registry().expect("every name once"),
            services: Services {
                passwords: Arc::new(Nothing),
                read: Arc::clone(&asked) as Arc<dyn ReadModel>,
                vault: Arc::new(Nothing),
                clock: Arc::new(Nothing),
            },
            grants: vec![(ADMIN.to_owned(), Grant::Admin), (READER.to_owned(), Grant::Reader)],
            reply_to: ReplyPatterns::default(),
        };
        Self { judge, asked }
    }

    /// From the delivery to the verdict, on the worker's own path.
    pub fn decode(&self, input: &Input) -> Verdict {
        let mut delivery = input.delivery();
        let _count = delivery_count(&delivery);
        let reason = parked_for(&delivery);
        let raw = raw(&mut delivery);
        match input.way {
            Way::Command => Verdict::Task(Box::new(self.judge.command(raw))),
            Way::Parked => Verdict::Task(Box::new(self.judge.parked(raw, reason))),
            Way::Query => {
                *self.asked.0.lock() = None;
                let answered = self.judge.query(&raw).now_or_never();
                Verdict::Query(answered.expect("nothing here waits"))
            }
        }
    }

    /// What the last query asked the database for.
    pub fn asked(&self) -> Option<Question> {
        self.asked.0.lock().take()
    }
}

impl Verdict {
    /// The refusal, where it is one, and why it would be kept if nobody could be told.
    pub fn refusal(&self) -> Option<(&Refusal, Option<KeptReason>)> {
        match self {
            Self::Task(task) => match &task.work {
                Work::Refuse(refusal, reason) => Some((refusal, Some(*reason))),
                Work::Run(_) | Work::Park(..) => None,
            },
            Self::Query(answered) => {
                let answered = answered.as_ref()?;
                let refusal = answered.body.as_ref().err()?;
                // Not found, or the stand-in's failure: it came as far as the database.
                let asked = refusal.code == Code::NotFound || answered.failure.is_some();
                (!asked).then_some((refusal, None))
            }
        }
    }

    /// Whether it was understood and may be carried out.
    pub fn accepted(&self) -> bool {
        match self {
            Self::Task(task) => matches!(task.work, Work::Run(_)),
            Self::Query(answered) => answered.is_some() && self.refusal().is_none(),
        }
    }
}

/// `run user.create.v1`, `answered`, `dropped`, `parked expired`, or `BAD_REQUEST email:missing (refused)`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((refusal, kept)) = self.refusal() {
            f.write_str(refusal.code.as_str())?;
            let details: BTreeSet<String> = refusal
                .details
                .iter()
                .map(|detail| {
                    let reason = serde_json::to_value(detail.reason).unwrap_or_default();
                    let reason = reason.as_str().unwrap_or("?").to_owned();
                    match (&detail.field, reason.as_str()) {
                        // The name is the sender's.
                        (_, "unknown_field") | (None, _) => reason,
                        (Some(field), _) => format!("{field}:{reason}"),
                    }
                })
                .collect();
            for detail in details {
                write!(f, " {detail}")?;
            }
            return kept.map_or(Ok(()), |kept| write!(f, " ({})", kept.as_str()));
        }
        match self {
            Self::Task(task) => match &task.work {
                Work::Run(command) => write!(f, "run {}", command.name()),
                Work::Park(reason, _) => write!(f, "parked {}", reason.as_str()),
                Work::Refuse(..) => Ok(()),
            },
            Self::Query(Some(_)) => f.write_str("answered"),
            Self::Query(None) => f.write_str("dropped"),
        }
    }
}

/// A query as it reached the database.
#[derive(Debug)]
pub enum Question {
    User,
    Users(UserFilter),
    Events(EventFilter),
}

impl Question {
    /// Whether the database could take it.
    pub fn is_sane(&self) -> bool {
        match self {
            Self::User => true,
            Self::Users(filter) => {
                let page = match &filter.window {
                    Window::Page(page) => (1..=10_000_000_000).contains(page),
                    Window::After(cursor) => !cursor.after.to_string().contains('\0'),
                };
                page && (1..=100).contains(&filter.per_page)
                    && filter.search.as_ref().is_none_or(|text| !text.contains('\0'))
            }
            Self::Events(filter) => filter.after_sequence >= 0 && (1..=500).contains(&filter.limit),
        }
    }
}

/// A database in which nothing is ever found, and that remembers what it was asked.
#[derive(Default)]
struct Asked(Mutex<Option<Question>>);

impl ReadModel for Asked {
    fn user(&self, _: UserKey) -> Pending<'_, Result<Option<UserView>, Failure>> {
        *self.0.lock() = Some(Question::User);
        Box::pin(std::future::ready(Ok(None)))
    }

    fn users<'a>(
        &'a self,
        filter: &'a UserFilter,
    ) -> Pending<'a, Result<(Vec<UserView>, PageMeta), Failure>> {
        *self.0.lock() = Some(Question::Users(filter.clone()));
        Box::pin(std::future::ready(Err(away())))
    }

    fn events<'a>(
        &'a self,
        filter: &'a EventFilter,
    ) -> Pending<'a, Result<(Vec<EventView>, EventPage), Failure>> {
        *self.0.lock() = Some(Question::Events(*filter));
        Box::pin(std::future::ready(Err(away())))
    }

    fn password_hash(&self, _: Id<User>) -> Pending<'_, Result<Option<PasswordHash>, Failure>> {
        Box::pin(std::future::ready(Err(away())))
    }
}

/// The other ports, which decoding must not need.
struct Nothing;

impl Clock for Nothing {
    fn now(&self) -> DateTime<Utc> {
        now()
    }
}

impl Vault for Nothing {
    fn fingerprint(&self, _: &[u8]) -> Fingerprint {
        Fingerprint::default()
    }

    fn seal(&self, _: &[u8], _: &[u8]) -> Result<Vec<u8>, Failure> {
        Err(away())
    }

    fn open(&self, _: &[u8], _: &[u8]) -> Result<Vec<u8>, Failure> {
        Err(away())
    }
}

impl Passwords for Nothing {
    fn make_way(&self) {}

    fn hash<'a>(&'a self, _: &'a Password) -> Pending<'a, Result<PasswordHash, Failure>> {
        Box::pin(std::future::ready(Err(away())))
    }

    fn verify<'a>(&'a self, _: &'a Password, _: &'a PasswordHash) -> Pending<'a, Result<bool, Failure>> {
        Box::pin(std::future::ready(Err(away())))
    }
}

fn away() -> Failure {
    Failure::new(FailureKind::Away, "no database here")
}
