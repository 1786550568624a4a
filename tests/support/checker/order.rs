//! I3 and I4: the event log, what a subscriber saw of it, and in which order.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::history::{Announced, History};
use super::Verdict;

/// I3: the events seen are exactly those in the log. Repeats are allowed, ghosts and gaps not.
pub fn log_and_subscriber_agree(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I3", "the events seen are exactly those in the log");
    let mut seen: HashMap<&str, &Announced> = HashMap::new();
    for event in &history.announced {
        let first = seen.entry(&event.id).or_insert(event);
        let same = first.subject == event.subject
            && first.sequence == event.sequence
            && first.kind == event.kind
            && first.data == event.data;
        verdict.check(same, || format!("{} was seen with two contents", event.id));
    }
    for logged in &history.events {
        let event = seen.remove(logged.id.to_string().as_str());
        verdict.check(event.is_some(), || format!("{} {} was never seen", logged.kind, logged.id));
        let Some(event) = event else { continue };
        let same = event.subject == logged.subject.to_string()
            && event.sequence == logged.sequence
            && event.kind == logged.kind
            && event.data == logged.data;
        verdict.check(same, || format!("{logged:?} was seen as {event:?}"));
    }
    for (id, event) in seen {
        verdict.check(false, || format!("a ghost: {} {id} of {}", event.kind, event.subject));
    }
    verdict
}

/// I4: per aggregate, the log and the first appearances are sequence 1, 2, 3 …
pub fn sequences_are_gapless(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I4", "first appearances are sequence 1, 2, 3 …");
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    let mut known = HashSet::new();
    for event in &history.announced {
        if known.insert((event.subject.as_str(), event.sequence)) {
            step(&mut verdict, "seen", &mut last, &event.subject, event.sequence);
        }
    }
    let mut log: Vec<_> = history.events.iter().collect();
    log.sort_by_key(|event| event.position);
    let subjects: Vec<(String, i64)> =
        log.iter().map(|event| (event.subject.to_string(), event.sequence)).collect();
    let mut last = BTreeMap::new();
    for (subject, sequence) in &subjects {
        step(&mut verdict, "logged", &mut last, subject, *sequence);
    }
    let mut batch = HashMap::new();
    for event in &log {
        let earlier = batch.insert(event.subject, event.batch_id);
        verdict.check(earlier.is_none_or(|earlier| earlier <= event.batch_id), || {
            format!("{} goes back to batch {}", event.subject, event.batch_id)
        });
    }
    verdict
}

fn step<'a>(
    verdict: &mut Verdict,
    word: &str,
    last: &mut BTreeMap<&'a str, i64>,
    subject: &'a str,
    sequence: i64,
) {
    let previous = last.insert(subject, sequence).unwrap_or(0);
    verdict.check(sequence == previous + 1, || format!("{subject}: {sequence} is {word} after {previous}"));
}
