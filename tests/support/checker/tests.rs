//! The checker on made-up histories: a good one passes, and each violation is caught by the
//! invariant it breaks.

use rstest::rstest;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::history::*;
use super::judge;

const ADA: Uuid = Uuid::from_u128(0xada);
const CREATE: Uuid = Uuid::from_u128(0xc1);
const UPDATE: Uuid = Uuid::from_u128(0xc2);
const REFUSED: Uuid = Uuid::from_u128(0xc3);

fn user(name: &str, version: i64) -> Value {
    json!({ "data": { "id": ADA, "email": "ada@example.com", "name": name, "version": version } })
}

fn not_found() -> Value {
    json!({ "error": { "code": "NOT_FOUND", "message": "no such user" } })
}

fn sent(id: Uuid, kind: &str, correlation: &str) -> Sent {
    Sent {
        message_id: id.to_string(),
        kind: kind.to_owned(),
        content: format!("{{}} of {id}"),
        correlation: correlation.to_owned(),
        confirmed: true,
        reply_expected: true,
        judged: Judged::Stored,
    }
}

fn got(correlation: &str, replayed: bool, body: Value) -> Got {
    Got { correlation: correlation.to_owned(), replayed: Some(replayed), body }
}

fn logged(sequence: i64, batch_id: i64, cause: Uuid, kind: &str, data: Value) -> Logged {
    Logged {
        position: sequence,
        batch_id,
        subject: ADA,
        sequence,
        id: Uuid::from_u128(0xe0 + sequence.unsigned_abs() as u128),
        kind: kind.to_owned(),
        data,
        cause: Some(cause),
    }
}

fn announced(event: &Logged) -> Announced {
    Announced {
        subject: event.subject.to_string(),
        sequence: event.sequence,
        id: event.id.to_string(),
        kind: event.kind.clone(),
        data: event.data.clone(),
    }
}

fn answer(message_id: Uuid, kind: &str, answer: Value) -> Answer {
    Answer { message_id, kind: kind.to_owned(), answer }
}

/// A user created and renamed twice in one go, a refusal, a resend, and an event seen twice.
fn good() -> History {
    let created = json!({ "email": "ada@example.com", "name": "Ada", "role": "user" });
    let events = vec![
        logged(1, 10, CREATE, "user.created.v1", created),
        logged(2, 11, UPDATE, "user.renamed.v1", json!({ "name": "Ada L" })),
    ];
    let mut seen: Vec<Announced> = events.iter().map(announced).collect();
    seen.push(announced(&events[0]));
    History {
        seed: 1,
        sent: vec![
            sent(CREATE, "user.create.v1", "a"),
            sent(UPDATE, "user.update.v1", "b"),
            sent(UPDATE, "user.update.v1", "c"),
            sent(REFUSED, "user.update.v1", "d"),
        ],
        got: vec![
            got("a", false, user("Ada", 1)),
            got("b", false, user("Ada L", 2)),
            got("c", true, user("Ada L", 2)),
            got("d", false, not_found()),
        ],
        announced: seen,
        users: vec![User {
            id: ADA,
            email: "ada@example.com".to_owned(),
            name: "Ada L".to_owned(),
            role: "user".to_owned(),
            version: 2,
            deleted: false,
        }],
        inbox: vec![
            answer(CREATE, "user.create.v1", user("Ada", 1)),
            answer(UPDATE, "user.update.v1", user("Ada L", 2)),
            answer(REFUSED, "user.update.v1", not_found()),
        ],
        events,
        failed: vec![],
        outbox: Some(0),
        queues: vec![Queue { name: "t.commands".to_owned(), ready: 0, consumers: 1 }],
        samples: vec![Sample { resident_kib: 10, connections: 5 }],
        bounds: Some(Sample { resident_kib: 20, connections: 6 }),
        idle_in_transaction: Some(0),
        locks_after_shutdown: Some(0),
        secrets: vec!["correct horse".to_owned()],
        places: vec![("worker.log".to_owned(), b"nothing to see".to_vec())],
    }
}

#[test]
fn a_good_history_passes_every_invariant() {
    let all = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9"];
    judge(&good()).assert_holds(&all);
}

#[rstest]
#[case::a_command_without_a_trace("I1", |h: &mut History| { h.inbox.pop(); h.got.pop(); })]
#[case::a_refusal_without_a_reply("I1", |h: &mut History| {
    h.sent[3].judged = Judged::Anew;
    h.inbox.pop();
    h.got.pop();
})]
#[case::two_stored_answers("I2", |h: &mut History| {
    let twice = h.inbox[0].clone();
    h.inbox.push(twice);
})]
#[case::applied_twice("I2", |h: &mut History| {
    h.events.push(logged(3, 12, UPDATE, "user.renamed.v1", json!({ "name": "Ada L" })));
})]
#[case::events_of_a_refused_command("I2", |h: &mut History| {
    h.events.push(logged(3, 12, REFUSED, "user.renamed.v1", json!({ "name": "Ada L" })));
})]
#[case::events_of_a_command_nobody_sent("I2", |h: &mut History| {
    h.events[1].cause = Some(Uuid::from_u128(9));
})]
#[case::events_without_a_cause("I2", |h: &mut History| h.events[1].cause = None)]
#[case::a_success_without_its_event("I2", |h: &mut History| { h.events.remove(0); })]
#[case::another_version_answered("I2", |h: &mut History| h.inbox[1].answer = user("Ada L", 5))]
#[case::a_state_that_the_log_does_not_tell("I2", |h: &mut History| {
    h.users[0].name = "Eve".to_owned();
})]
#[case::a_user_that_is_gone("I2", |h: &mut History| h.users.clear())]
#[case::an_event_never_seen("I3", |h: &mut History| { h.announced.remove(1); })]
#[case::a_ghost("I3", |h: &mut History| h.announced[2].id = Uuid::from_u128(1).to_string())]
#[case::seen_with_other_data("I3", |h: &mut History| h.announced[1].data = json!({}))]
#[case::seen_with_two_contents("I3", |h: &mut History| h.announced[2].data = json!({}))]
#[case::seen_out_of_order("I4", |h: &mut History| h.announced.swap(0, 1))]
#[case::a_gap_in_the_log("I4", |h: &mut History| h.events[1].sequence = 3)]
#[case::batches_out_of_order("I4", |h: &mut History| h.events[1].batch_id = 9)]
#[case::a_request_without_an_answer("I5", |h: &mut History| { h.got.remove(2); })]
#[case::another_answer_to_the_resend("I5", |h: &mut History| h.got[2].body = user("Ada M", 3))]
#[case::a_success_that_was_rolled_back("I5", |h: &mut History| { h.inbox.remove(1); })]
#[case::answered_as_new_twice("I5", |h: &mut History| h.got[2].replayed = Some(false))]
#[case::no_replayed_header("I5", |h: &mut History| h.got[0].replayed = None)]
#[case::a_reply_to_nobody("I5", |h: &mut History| h.got.push(got("x", false, not_found())))]
#[case::a_reused_id_accepted("I5", |h: &mut History| h.sent[2].content = "other".to_owned())]
#[case::a_full_outbox("I6", |h: &mut History| h.outbox = Some(1))]
#[case::a_full_queue("I6", |h: &mut History| h.queues[0].ready = 1)]
#[case::a_queue_without_consumer("I6", |h: &mut History| h.queues[0].consumers = 0)]
#[case::a_command_that_waits_for_ever("I6", |h: &mut History| h.failed.push(Failed {
    message_id: None,
    kind: None,
    state: "waiting".to_owned(),
    reason: None,
    attempts: 1,
}))]
#[case::too_much_memory("I7", |h: &mut History| h.samples[0].resident_kib = 21)]
#[case::too_many_connections("I7", |h: &mut History| h.samples[0].connections = 7)]
#[case::an_idle_transaction("I8", |h: &mut History| h.idle_in_transaction = Some(1))]
#[case::a_lock_left_behind("I8", |h: &mut History| h.locks_after_shutdown = Some(1))]
#[case::a_secret_as_it_is("I9", |h: &mut History| h.places[0].1 = b"a correct horse!".to_vec())]
#[case::a_secret_in_hex("I9", |h: &mut History| {
    h.places[0].1 = br"\x01636f727265637420686f727365ff".to_vec();
})]
#[case::a_secret_in_base64("I9", |h: &mut History| {
    // {"password":"correct horse"}
    h.places[0].1 = b"eyJwYXNzd29yZCI6ImNvcnJlY3QgaG9yc2UifQ==".to_vec();
})]
fn a_violation_is_caught(#[case] invariant: &str, #[case] spoil: impl FnOnce(&mut History)) {
    let mut history = good();
    spoil(&mut history);
    let report = judge(&history);
    assert!(report.broken().contains(&invariant), "{report}");
}

#[test]
fn what_is_judged_anew_may_be_answered_differently_each_time() {
    let mut history = good();
    let expired = json!({ "error": { "code": "EXPIRED", "message": "too late" } });
    history.got.push(got("c", false, expired));
    judge(&history).assert_holds(&[]);
}
