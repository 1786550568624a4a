//! What becomes of each command of a batch, on plain values.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::application::actor::{Actor, Grant};
use crate::application::command;
use crate::application::error::Code;
use crate::application::message::{Properties, Trace};
use crate::application::task::{Kept, Original};
use crate::domain::{Id, PasswordHash, Role, User};

/// Seals nothing: what is decided does not depend on it.
struct Glass;

impl Vault for Glass {
    fn fingerprint(&self, body: &[u8]) -> Fingerprint {
        let mut fingerprint = [0; 32];
        for (at, byte) in body.iter().enumerate() {
            fingerprint[at % 32] ^= byte.rotate_left(u32::try_from(at / 32).unwrap());
        }
        fingerprint
    }

    fn seal(&self, body: &[u8], _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(body.to_vec())
    }

    fn open(&self, sealed: &[u8], _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(sealed.to_vec())
    }
}

fn now() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn world() -> World<'static> {
    World { now: now(), dedupe_days: 7, vault: &Glass, fresh_id: Uuid::now_v7 }
}

fn key(n: u128, days_ago: u64) -> MessageKey {
    MessageKey { message_id: Uuid::from_u128(n), issued_on: now().date_naive() - Days::new(days_ago) }
}

fn ada() -> Workspace {
    let user = User::register(
        Id::new(Uuid::from_u128(1)),
        "ada@example.com".parse().unwrap(),
        "Ada".parse().unwrap(),
        Role::User,
        PasswordHash::new("hash".into()),
        now(),
    );
    Workspace::new(vec![User::rehydrate(user.state().clone())])
}

/// A rename of Ada as message `n`.
fn rename(n: u128, name: &str) -> Task {
    let body = json!({ "id": Uuid::from_u128(1), "name": name }).to_string();
    let serde_json::Value::Object(payload) = serde_json::from_str(&body).unwrap() else { unreachable!() };
    let command = command::registry().unwrap().read("user.update.v1", payload).unwrap().unwrap();
    Task {
        key: Some(key(n, 0)),
        message_type: "user.update.v1".into(),
        fingerprint: Glass.fingerprint(body.as_bytes()),
        actor: Actor::Service { name: "backoffice".into(), grant: Grant::Admin },
        correlation_id: None,
        reply_to: Some("reply.test".into()),
        trace: Trace::default(),
        deadline: None,
        aggregate: Some(Uuid::from_u128(1).to_string()),
        work: Work::Run(command),
        original: Original { properties: Properties::default(), body: body.into_bytes().into() },
        kept: None,
        redelivered: false,
        suspect: false,
    }
}

fn refused(mut task: Task) -> Task {
    task.work = Work::Refuse(Refusal::forbidden(), KeptReason::Refused);
    task
}

fn seen(task: &Task, known: Known) -> Seen {
    Seen {
        key: task.key.unwrap(),
        message_type: task.message_type.clone(),
        actor: task.actor.to_string(),
        fingerprint: task.fingerprint,
        known,
    }
}

fn run(tasks: &[Task], seen: Vec<Seen>) -> (Vec<String>, Changes) {
    let (outcomes, changes) = decide(tasks, ada(), seen, &world()).unwrap();
    let shown = outcomes.iter().map(|outcome| match outcome {
        Outcome::Answered { code, replayed, .. } => {
            let code = code.map_or("ok", Code::as_str);
            if *replayed { format!("{code} replayed") } else { code.to_owned() }
        }
        Outcome::Dead { reason, .. } => format!("dead {}", reason.as_str()),
        other => format!("{other:?}"),
    });
    (shown.collect(), changes)
}

#[test]
fn two_deliveries_in_one_batch_are_one_effect_and_one_answer() {
    let (outcomes, changes) = run(&[rename(1, "Ada L"), rename(1, "Ada L")], vec![]);
    assert_eq!(outcomes, ["ok", "ok replayed"]);
    assert_eq!((changes.events.len(), changes.answers.len(), changes.updated.len()), (1, 1, 1));
}

#[test]
fn the_same_id_with_other_bytes_changes_nothing() {
    let (outcomes, changes) = run(&[rename(1, "Ada L"), rename(1, "Ada B")], vec![]);
    assert_eq!(outcomes, ["ok", "CONFLICT"]);
    assert_eq!((changes.events.len(), changes.answers.len()), (1, 1));
}

#[test]
fn the_same_id_from_somebody_else_changes_nothing() {
    let mut other = rename(1, "Ada L");
    other.actor = Actor::Service { name: "billing".into(), grant: Grant::Admin };
    let (outcomes, _) = run(&[rename(1, "Ada L"), other], vec![]);
    assert_eq!(outcomes, ["ok", "CONFLICT"]);
}

#[test]
fn an_answer_that_the_inbox_has_wins_over_everything() {
    let answer = Known::Answer(r#"{"data":{}}"#.into());
    let mut late = rename(1, "Ada L");
    late.deadline = Some(now() - TimeDelta::seconds(1));
    for task in [rename(1, "Ada L"), refused(rename(1, "Ada L")), late] {
        let known = seen(&task, answer.clone());
        let (outcomes, changes) = run(&[task], vec![known]);
        assert_eq!(outcomes, ["ok replayed"]);
        assert!(changes.is_empty());
    }
}

#[rstest]
#[case::deadline(0, Some(-1), "EXPIRED")]
#[case::in_time(0, Some(1), "ok")]
#[case::last_day_of_the_window(7, None, "ok")]
#[case::outside_the_window(8, None, "EXPIRED")]
fn what_comes_too_late_is_not_executed(
    #[case] days_ago: u64,
    #[case] deadline: Option<i64>,
    #[case] expected: &str,
) {
    let mut task = rename(1, "Ada L");
    task.key = Some(key(1, days_ago));
    task.deadline = deadline.map(|seconds| now() + TimeDelta::seconds(seconds));
    let (outcomes, changes) = run(&[task], vec![]);
    assert_eq!(outcomes, [expected]);
    assert_eq!(changes.events.is_empty(), expected != "ok");
    assert_eq!(changes.answers.is_empty(), expected != "ok", "EXPIRED is never stored");
}

#[test]
fn a_refusal_found_early_is_answered_and_not_stored() {
    let (outcomes, changes) = run(&[refused(rename(1, "Ada L"))], vec![]);
    assert_eq!(outcomes, ["FORBIDDEN"]);
    assert!(changes.is_empty());
}

#[test]
fn a_refusal_that_nobody_hears_is_a_dead_letter_and_never_an_answer() {
    let mut task = refused(rename(1, "Ada L"));
    task.reply_to = None;
    let (outcomes, changes) = run(&[task], vec![]);
    assert_eq!(outcomes, ["dead refused"]);
    assert_eq!((changes.kept.len(), changes.answers.len()), (1, 0));
    assert_eq!(changes.kept[0].verdict, Verdict::Dead);
}

#[test]
fn a_message_that_is_kept_already_is_not_run_beside_its_row() {
    let mut task = rename(1, "Ada L");
    task.redelivered = true;
    let row = Uuid::from_u128(50);
    let (outcomes, changes) = run(std::slice::from_ref(&task), vec![seen(&task, Known::Waiting(row))]);
    assert_eq!(outcomes, ["Waits"]);
    assert_eq!((changes.joined.len(), changes.joined[0].0), (1, row), "its caller waits with the others");
    for (reason, expected) in [(KeptReason::Failed, "INTERNAL_ERROR"), (KeptReason::Expired, "EXPIRED")] {
        let (outcomes, changes) = run(std::slice::from_ref(&task), vec![seen(&task, Known::Dead(reason))]);
        assert!(outcomes[0].contains(expected), "{outcomes:?}");
        assert!(changes.is_empty());
    }
}

#[test]
fn a_dead_letter_that_its_caller_sends_again_is_judged_anew() {
    let task = rename(1, "Ada L");
    let known = seen(&task, Known::Dead(KeptReason::Failed));
    let (outcomes, _) = run(&[task], vec![known]);
    assert_eq!(outcomes, ["ok"]);
}

#[rstest]
#[case::only_refused(KeptReason::Refused, "ok")]
#[case::may_yet_be_carried_out(KeptReason::Failed, "CONFLICT")]
fn a_dead_letter_keeps_its_id_from_other_bytes_if_it_was_more_than_refused(
    #[case] reason: KeptReason,
    #[case] expected: &str,
) {
    let known = seen(&rename(1, "Ada B"), Known::Dead(reason));
    let (outcomes, _) = run(&[rename(1, "Ada L")], vec![known]);
    assert_eq!(outcomes, [expected]);
}

#[test]
fn a_kept_command_whose_id_is_another_messages_is_not_run() {
    let mut task = rename(1, "Ada L");
    task.kept = Some(Kept {
        id: Uuid::from_u128(50),
        attempts: 0,
        first_error: "why".into(),
        dead: None,
        waiters: vec![],
    });
    let known = seen(&rename(1, "Ada B"), Known::Waiting(Uuid::from_u128(51)));
    let (outcomes, _) = run(&[task], vec![known]);
    assert_eq!(outcomes, ["CONFLICT"]);
}

#[test]
fn a_second_dead_letter_with_the_same_id_leaves_the_id_to_the_first() {
    let silent = |name| Task { reply_to: None, ..refused(rename(1, name)) };
    let (outcomes, changes) = run(&[silent("Ada L"), silent("Ada B")], vec![]);
    assert_eq!(outcomes, ["dead refused", "dead refused"]);
    assert_eq!((changes.kept[0].key, changes.kept[1].key), (Some(key(1, 0)), None));
}

#[test]
fn a_kept_command_runs_in_spite_of_its_own_row_which_outlives_the_answer() {
    let mut task = rename(1, "Ada L");
    let row = Uuid::from_u128(50);
    task.kept = Some(Kept { id: row, attempts: 1, first_error: "why".into(), dead: None, waiters: vec![] });
    let known = seen(&task, Known::Waiting(row));
    let (outcomes, changes) = run(std::slice::from_ref(&task), vec![known.clone()]);
    assert_eq!(outcomes, ["ok"]);
    assert!(changes.released.is_empty(), "the answer is not sent yet");
    task.reply_to = None;
    let (_, changes) = run(&[task], vec![known]);
    assert_eq!(changes.released, [row]);
}

#[test]
fn what_the_broker_parked_is_never_run() {
    let mut task = rename(1, "Ada L");
    task.work = Work::Park(KeptReason::DeliveryLimit, "why".into());
    let (outcomes, changes) = run(&[task], vec![]);
    assert_eq!(outcomes, ["dead delivery_limit"]);
    assert!(changes.events.is_empty() && changes.answers.is_empty());
}

#[test]
fn events_of_one_user_count_on_through_a_batch() {
    let (_, changes) = run(&[rename(1, "Ada L"), rename(2, "Ada"), rename(3, "Ada")], vec![]);
    let sequences: Vec<i64> = changes.events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [2, 3], "the third changes nothing");
    let ids: BTreeSet<Uuid> = changes.events.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(changes.updated.len(), 1);
    assert_eq!(changes.updated[0].0, 1);
}
