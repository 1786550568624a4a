//! Whether a newer schema keeps the promises of an older one (CONTRACT.md §10): a request that was good stays
//! good, and an answer holds what it held. What is only added passes.

mod change;
mod rules;

use std::collections::BTreeMap;

use serde_json::Value;

pub use change::{Break, Change};
use rules::Comparison;

/// Which side a schema binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Callers write it: what they wrote before must still be taken.
    Request,
    /// Callers read it: they must still find what they found before.
    Answer,
}

impl Direction {
    /// By the folder that a schema stands in.
    #[must_use]
    pub fn of(path: &str) -> Self {
        if path.starts_with("commands/") || path.starts_with("queries/") {
            Self::Request
        } else {
            Self::Answer
        }
    }
}

/// Every promise of `old` that `new` breaks; both hold schemas by their path in `schemas/`.
#[must_use]
pub fn compare(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<Break> {
    let mut breaks = Vec::new();
    for (path, before) in old {
        match new.get(path) {
            Some(now) => breaks.extend(compare_one(path, before, now)),
            None => breaks.push(Break { at: path.clone(), change: Change::Gone }),
        }
    }
    breaks
}

fn compare_one(path: &str, old: &Value, new: &Value) -> Vec<Break> {
    let mut comparison = Comparison::new(Direction::of(path), old, new);
    comparison.node(old, new, "");
    comparison.into_breaks(path)
}

#[cfg(test)]
mod tests;
