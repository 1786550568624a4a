//! The last sequence seen per user or session: tells repeats and gaps from what is next.

use std::collections::HashMap;

use super::events::Gap;

/// Subjects remembered at once are at most twice this; the longest unseen are forgotten first.
const GENERATION: usize = 50_000;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Next,
    Repeat,
    After(Gap),
}

#[derive(Debug, Default)]
pub(super) struct Sequences {
    recent: HashMap<String, u64>,
    older: HashMap<String, u64>,
}

impl Sequences {
    /// Where an event stands, and remembers it. A subject not seen before may start anywhere.
    pub(super) fn place(&mut self, subject: &str, sequence: u64) -> Place {
        let last = self.recent.get(subject).or_else(|| self.older.get(subject)).copied();
        if last.is_some_and(|last| sequence <= last) {
            return Place::Repeat;
        }
        if self.recent.len() >= GENERATION && !self.recent.contains_key(subject) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(subject.to_owned(), sequence);
        match last {
            Some(last) if sequence > last + 1 => {
                Place::After(Gap { subject: subject.to_owned(), expected: last + 1, found: sequence })
            }
            _ => Place::Next,
        }
    }
}

/// Whether a routing pattern lets every event of a user or session through. Only then does a jump
/// in the sequence mean that something is missing.
pub(super) fn sees_all(pattern: &str) -> bool {
    let words: Vec<&str> = pattern.split('.').collect();
    match words.as_slice() {
        ["#"] | [_, "#"] | [_, "*", "*" | "#" | "v1"] => true,
        [..] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_gaps_are_told_apart_per_subject() {
        let mut seen = Sequences::default();
        assert_eq!(seen.place("a", 1), Place::Next);
        assert_eq!(seen.place("b", 7), Place::Next);
        assert_eq!(seen.place("a", 2), Place::Next);
        assert_eq!(seen.place("a", 2), Place::Repeat);
        assert_eq!(seen.place("a", 1), Place::Repeat);
        let gap = Gap { subject: "a".into(), expected: 3, found: 5 };
        assert_eq!(seen.place("a", 5), Place::After(gap));
        assert_eq!(seen.place("a", 6), Place::Next);
        assert_eq!(seen.place("b", 8), Place::Next);
    }

    #[test]
    fn memory_is_bounded_and_recent_subjects_are_kept() {
        let mut seen = Sequences::default();
        for subject in 0..GENERATION * 3 {
            seen.place(&subject.to_string(), 1);
        }
        assert!(seen.recent.len() + seen.older.len() <= GENERATION * 2);
        let last = (GENERATION * 3 - 1).to_string();
        assert_eq!(seen.place(&last, 1), Place::Repeat);
    }

    #[test]
    fn only_whole_patterns_can_tell_a_gap() {
        for whole in ["#", "user.#", "user.*.v1", "*.*.v1", "session.*.*"] {
            assert!(sees_all(whole), "{whole}");
        }
        for part in ["user.created.v1", "*.created.v1", "user.created.#", "user.*"] {
            assert!(!sees_all(part), "{part}");
        }
    }
}
