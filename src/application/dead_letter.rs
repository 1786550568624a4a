//! The failed commands as operators see them, and what a replay would make of each.

use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::kept::KeptReason;
use super::message::{Header, Properties, time_of};

/// Where a failed command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// To be tried again.
    Waiting,
    Dead,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Dead => "dead",
        }
    }
}

/// Which are meant; everything that is not given fits.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Rows' or messages' ids.
    pub ids: Vec<Uuid>,
    pub reason: Option<KeptReason>,
    pub message_type: Option<String>,
    /// A user's id or e-mail address: what the body names, not who sent it.
    pub user: Option<String>,
    pub state: Option<State>,
}

/// A failed command without its body.
#[derive(Debug, Clone, Serialize)]
pub struct Letter {
    /// The row's own.
    pub id: Uuid,
    /// `None` where the id cannot be used, or is another message's.
    pub message_id: Option<Uuid>,
    #[serde(skip)]
    pub issued_on: Option<NaiveDate>,
    #[serde(rename = "type")]
    pub message_type: String,
    /// What the body names.
    pub aggregate: Option<String>,
    pub actor: String,
    pub reason: String,
    pub state: State,
    pub attempts: i32,
    pub first_error: String,
    pub last_error: String,
    pub properties: Properties,
    pub due_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// A worker runs it just now.
    pub running: bool,
    /// The inbox has its answer.
    pub answered: bool,
}

/// What an operator allows a replay to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replay {
    /// Give those a fresh `message_id` whose own cannot be used.
    pub new_id: bool,
    /// Forget deadlines that have passed.
    pub without_deadline: bool,
    /// `ROSTER_DEDUPE_DAYS`
    pub dedupe_days: u32,
}

/// What becomes of a letter that is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Run again as it is.
    Again,
    /// Not run: the stored answer is sent.
    Answered,
    /// Run again under a fresh `message_id`.
    Renewed,
    /// A worker has it in hand.
    Running,
    /// Would be answered `EXPIRED` unless sent under a new id.
    OutsideWindow,
    /// Would be answered `EXPIRED` unless its deadline is forgotten.
    DeadlinePassed,
}

impl Fate {
    /// Whether the row is to be touched.
    #[must_use]
    pub const fn is_replayed(self) -> bool {
        matches!(self, Self::Again | Self::Answered | Self::Renewed)
    }
}

impl Replay {
    #[must_use]
    pub fn fate(self, letter: &Letter, now: DateTime<Utc>) -> Fate {
        let issued_on = letter.issued_on.or_else(|| issued_on(&letter.properties));
        let start = now.date_naive().checked_sub_days(Days::new(self.dedupe_days.into()));
        let outside = issued_on.zip(start).is_some_and(|(issued_on, start)| issued_on < start);
        if letter.running {
            Fate::Running
        } else if letter.answered {
            Fate::Answered
        } else if outside && !self.new_id {
            Fate::OutsideWindow
        } else if !self.without_deadline && deadline_passed(&letter.properties, now) {
            Fate::DeadlinePassed
        } else if self.new_id && (outside || letter.message_id.is_none()) {
            Fate::Renewed
        } else {
            Fate::Again
        }
    }

    /// The properties it is run with.
    #[must_use]
    pub fn properties(self, letter: &Letter, fate: Fate, now: DateTime<Utc>, fresh_id: Uuid) -> Properties {
        let mut properties = letter.properties.clone();
        if self.without_deadline && deadline_passed(&properties, now) {
            properties.deadline = None;
        }
        if fate == Fate::Renewed {
            let old = properties.message_id.replace(fresh_id.to_string());
            // So that its caller still knows the reply.
            properties.correlation_id = properties.correlation_id.or(old);
            properties.timestamp = None;
        }
        properties
    }
}

fn deadline_passed(properties: &Properties, now: DateTime<Utc>) -> bool {
    match &properties.deadline {
        Some(Header::Text(text)) => DateTime::parse_from_rfc3339(text).is_ok_and(|deadline| deadline <= now),
        Some(Header::NotText {}) | None => false,
    }
}

fn issued_on(properties: &Properties) -> Option<NaiveDate> {
    let id = Uuid::try_parse(properties.message_id.as_deref()?).ok()?;
    let timestamp = || DateTime::from_timestamp(i64::try_from(properties.timestamp?).ok()?, 0);
    Some(time_of(id).or_else(timestamp)?.date_naive())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn letter(days_ago: u64) -> Letter {
        Letter {
            id: Uuid::from_u128(1),
            message_id: Some(Uuid::from_u128(2)),
            issued_on: Some(now().date_naive() - Days::new(days_ago)),
            message_type: "user.update.v1".into(),
            aggregate: None,
            actor: "anonymous".into(),
            reason: "failed".into(),
            state: State::Dead,
            attempts: 5,
            first_error: String::new(),
            last_error: String::new(),
            properties: Properties {
                message_id: Some(Uuid::from_u128(2).to_string()),
                timestamp: Some(1),
                ..Properties::default()
            },
            due_at: None,
            created_at: now(),
            updated_at: now(),
            running: false,
            answered: false,
        }
    }

    const PLAIN: Replay = Replay { new_id: false, without_deadline: false, dedupe_days: 7 };

    #[rstest]
    #[case::within(7, false, Fate::Again)]
    #[case::within_and_new_id(7, true, Fate::Again)]
    #[case::outside(8, false, Fate::OutsideWindow)]
    #[case::outside_and_new_id(8, true, Fate::Renewed)]
    fn only_what_is_outside_the_window_gets_a_new_id(
        #[case] days_ago: u64,
        #[case] new_id: bool,
        #[case] expected: Fate,
    ) {
        assert_eq!(Replay { new_id, ..PLAIN }.fate(&letter(days_ago), now()), expected);
    }

    #[test]
    fn an_answer_is_never_run_again_whatever_is_allowed() {
        let answered = Letter { answered: true, ..letter(8) };
        assert_eq!(Replay { new_id: true, ..PLAIN }.fate(&answered, now()), Fate::Answered);
    }

    #[test]
    fn an_id_that_is_another_messages_can_be_replaced() {
        let properties = Properties::default();
        let reused = Letter { message_id: None, issued_on: None, properties, ..letter(0) };
        assert_eq!(PLAIN.fate(&reused, now()), Fate::Again);
        assert_eq!(Replay { new_id: true, ..PLAIN }.fate(&reused, now()), Fate::Renewed);
    }

    #[test]
    fn a_new_id_leaves_the_caller_its_correlation() {
        let fresh = Uuid::from_u128(9);
        let renewed = PLAIN.properties(&letter(8), Fate::Renewed, now(), fresh);
        assert_eq!(renewed.message_id, Some(fresh.to_string()));
        assert_eq!(renewed.correlation_id, Some(Uuid::from_u128(2).to_string()));
        assert_eq!(renewed.timestamp, None);
    }

    #[test]
    fn a_deadline_that_has_passed_must_be_forgotten_on_purpose() {
        let mut late = letter(0);
        late.properties.deadline = Some(Header::Text("2026-11-21T11:00:00Z".into()));
        assert_eq!(PLAIN.fate(&late, now()), Fate::DeadlinePassed);
        let bold = Replay { without_deadline: true, ..PLAIN };
        assert_eq!(bold.fate(&late, now()), Fate::Again);
        assert_eq!(bold.properties(&late, Fate::Again, now(), Uuid::nil()).deadline, None);
    }
}
