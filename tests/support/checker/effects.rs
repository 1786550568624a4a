//! I1, I2 and I5: what became of each command, in the database and in its replies.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::super::history::{Answer, Got, History, Judged, Logged, Sent};
use super::Verdict;

/// I1: every confirmed command has left its mark: a stored answer, a kept failure, or, where it
/// was to be refused anew, a reply.
pub fn nothing_lost(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I1", "no confirmed command is lost");
    let stored: HashSet<String> = history.inbox.iter().map(|answer| answer.message_id.to_string()).collect();
    let kept: HashSet<&str> =
        history.failed.iter().filter_map(|failed| failed.message_id.as_deref()).collect();
    let replied: HashSet<&str> = history.got.iter().map(|got| got.correlation.as_str()).collect();
    for sent in history.sent.iter().filter(|sent| sent.confirmed) {
        let id = &sent.message_id;
        let marked = stored.contains(id) || kept.contains(id.as_str());
        let answered = replied.contains(sent.correlation.as_str());
        let holds = match sent.judged {
            Judged::Stored => marked,
            Judged::Anew => answered || !sent.reply_expected,
        };
        verdict.check(holds, || format!("{} {id} left nothing behind", sent.kind));
    }
    verdict
}

/// I2: per message id one stored answer, and at most one set of events, which agrees with that
/// answer; and the state is what the log says.
pub fn one_effect(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I2", "one effect per message_id");
    let mut answers: HashMap<_, Vec<&Answer>> = HashMap::new();
    for answer in &history.inbox {
        answers.entry(answer.message_id).or_default().push(answer);
    }
    for (id, rows) in &answers {
        verdict.check(rows.len() == 1, || format!("{id} has {} stored answers", rows.len()));
    }
    let mut effects: BTreeMap<_, Vec<&Logged>> = BTreeMap::new();
    for event in &history.events {
        match event.cause {
            Some(cause) => effects.entry(cause).or_default().push(event),
            None => verdict.check(false, || format!("event {} has no cause", event.id)),
        }
    }
    let sent: HashSet<&str> = history.sent.iter().map(|s| s.message_id.as_str()).collect();
    for (cause, events) in &effects {
        let batches: BTreeSet<i64> = events.iter().map(|event| event.batch_id).collect();
        verdict.check(batches.len() == 1, || format!("{cause} has events in batches {batches:?}"));
        let mut kinds = BTreeSet::new();
        for event in events {
            verdict.check(kinds.insert((event.subject, &event.kind)), || {
                format!("{cause} has {} twice", event.kind)
            });
        }
        verdict.check(sent.contains(cause.to_string().as_str()), || {
            format!("{cause} has events, and nobody sent it")
        });
        let answer = answers.get(cause).and_then(|rows| rows.first());
        verdict.check(answer.is_some_and(|row| is_success(&row.answer)), || {
            format!("{cause} has events, and no stored success")
        });
    }
    for answer in history.inbox.iter().filter(|row| is_success(&row.answer)) {
        let none = Vec::new();
        let events = effects.get(&answer.message_id).unwrap_or(&none);
        agree(&mut verdict, answer, events);
    }
    state_is_the_log(&mut verdict, history);
    verdict
}

/// The version in a stored success is that of its last event, and a creation or a deletion has
/// its event.
fn agree(verdict: &mut Verdict, answer: &Answer, events: &[&Logged]) {
    let id = answer.message_id;
    let wanted = match answer.kind.as_str() {
        "user.create.v1" => Some("user.created.v1"),
        "user.delete.v1" => Some("user.deleted.v1"),
        _ => None,
    };
    if let Some(wanted) = wanted {
        verdict.check(events.iter().any(|event| event.kind == wanted), || {
            format!("{id} succeeded without {wanted}")
        });
    }
    let own = events.iter().filter(|event| event.kind.starts_with("user."));
    let last = own.map(|event| event.sequence).max();
    let version = answer.answer["data"]["version"].as_i64();
    if let (Some(last), Some(version)) = (last, version) {
        // A deletion answers with the user before it.
        let before = i64::from(wanted == Some("user.deleted.v1"));
        verdict.check(version + before == last, || {
            format!("{id} says version {version}, its last event is {last}")
        });
    }
}

/// Each user is what its events, applied in order, say.
fn state_is_the_log(verdict: &mut Verdict, history: &History) {
    let mut told: HashMap<_, (Value, i64)> = HashMap::new();
    let mut log: Vec<&Logged> = history.events.iter().collect();
    log.sort_by_key(|event| (event.subject, event.sequence));
    for event in log.iter().filter(|event| event.kind.starts_with("user.")) {
        let (state, version) = told.entry(event.subject).or_default();
        for field in ["email", "name", "role"] {
            if let Some(value) = event.data.get(field) {
                state[field] = value.clone();
            }
        }
        state["deleted"] = (event.kind == "user.deleted.v1").into();
        *version = event.sequence;
    }
    for user in &history.users {
        let (state, version) = told.remove(&user.id).unwrap_or_default();
        let holds = state["email"] == user.email.as_str()
            && state["name"] == user.name.as_str()
            && state["role"] == user.role.as_str()
            && state["deleted"] == user.deleted
            && version == user.version;
        verdict.check(holds, || format!("{user:?} is not what its log says: version {version}, {state}"));
    }
    for subject in told.keys() {
        verdict.check(false, || format!("{subject} has events and no row"));
    }
}

/// I5: every request whose caller waited got an answer, and all answers to one message are one.
pub fn everything_answered(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I5", "every request is answered, always alike");
    let mut replies: HashMap<&str, Vec<&Got>> = HashMap::new();
    for got in &history.got {
        replies.entry(&got.correlation).or_default().push(got);
    }
    let mut messages: BTreeMap<&str, Vec<(&Sent, &Got)>> = BTreeMap::new();
    for sent in &history.sent {
        let answers = replies.remove(sent.correlation.as_str()).unwrap_or_default();
        if sent.confirmed && sent.reply_expected {
            verdict.check(!answers.is_empty(), || format!("{} {} got no answer", sent.kind, sent.message_id));
        }
        for got in answers {
            verdict.check(got.replayed.is_some(), || {
                format!("a reply to {} does not say if it is replayed", sent.message_id)
            });
            let pairs = messages.entry(&sent.message_id).or_default();
            pairs.push((sent, got));
        }
    }
    for correlation in replies.keys() {
        verdict.check(false, || format!("a reply to nobody: {correlation}"));
    }
    let stored: HashMap<String, &Value> =
        history.inbox.iter().map(|row| (row.message_id.to_string(), &row.answer)).collect();
    for (id, pairs) in messages {
        let kept = pairs.iter().filter(|(_, got)| !is_judged_anew(&got.body));
        let kept: Vec<_> = kept.collect();
        let contents: BTreeSet<_> = kept.iter().map(|(sent, _)| (&sent.kind, &sent.content)).collect();
        verdict.check(contents.len() <= 1, || {
            format!("{id} was accepted with {} different contents", contents.len())
        });
        let first_times = kept.iter().filter(|(_, got)| got.replayed == Some(false));
        verdict.check(first_times.count() <= 1, || {
            format!("{id} was answered as if for the first time more than once")
        });
        for (_, got) in kept {
            let stored = stored.get(id);
            verdict.check(stored.is_some_and(|stored| **stored == got.body), || {
                format!("{id} was answered {}, stored is {stored:?}", got.body)
            });
        }
    }
    verdict
}

fn is_success(answer: &Value) -> bool {
    answer.get("data").is_some() && answer.get("error").is_none()
}

/// Refusals that are judged anew each time, and so never stored.
fn is_judged_anew(reply: &Value) -> bool {
    let code = reply["error"]["code"].as_str().unwrap_or_default();
    let details = reply["error"]["details"].as_array();
    let has = |reason: &str| {
        let mut reasons = details.into_iter().flatten();
        reasons.any(|detail| detail["reason"] == reason)
    };
    match code {
        "BAD_REQUEST" | "EXPIRED" | "INTERNAL_ERROR" => true,
        "UNAUTHORIZED" => !has("invalid_credentials"),
        "CONFLICT" => has("message_id_reused"),
        // Access by type is judged anew, access by state is stored: both are allowed here.
        "FORBIDDEN" => true,
        _ => false,
    }
}
