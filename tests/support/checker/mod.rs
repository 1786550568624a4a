//! The checker: judges the history of a run against the invariants I1 to I9. It knows the
//! contract and nothing of the code under test.

mod effects;
mod order;
mod resources;
#[cfg(test)]
mod tests;

use std::fmt;

use super::history::History;

/// One invariant: how many things were checked and which of them broke it.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub name: &'static str,
    pub claim: &'static str,
    pub checked: usize,
    pub violations: Vec<String>,
}

impl Verdict {
    fn new(name: &'static str, claim: &'static str) -> Self {
        Self { name, claim, checked: 0, violations: Vec::new() }
    }

    /// Counts one check; `violation` is asked only where it failed.
    fn check(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.violations.push(violation());
        }
    }
}

/// The verdict per invariant.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub verdicts: Vec<Verdict>,
}

/// Judges a history.
pub fn judge(history: &History) -> Report {
    Report {
        seed: history.seed,
        verdicts: vec![
            effects::nothing_lost(history),
            effects::one_effect(history),
            order::log_and_subscriber_agree(history),
            order::sequences_are_gapless(history),
            effects::everything_answered(history),
            resources::drained(history),
            resources::bounded(history),
            resources::nothing_left_open(history),
            resources::no_secret_anywhere(history),
        ],
    }
}

impl Report {
    /// The names of the broken invariants.
    pub fn broken(&self) -> Vec<&'static str> {
        let broken = self.verdicts.iter();
        broken.filter(|verdict| !verdict.violations.is_empty()).map(|verdict| verdict.name).collect()
    }

    /// Fails the test where an invariant is broken, or where one of `needed` had nothing to check.
    #[track_caller]
    pub fn assert_holds(&self, needed: &[&str]) {
        assert!(self.broken().is_empty(), "broken: {:?}\n{self}", self.broken());
        for verdict in &self.verdicts {
            let idle = verdict.checked == 0 && needed.contains(&verdict.name);
            assert!(!idle, "{} had nothing to check\n{self}", verdict.name);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        for verdict in &self.verdicts {
            let word = match (verdict.violations.len(), verdict.checked) {
                (0, 0) => "not checked".to_owned(),
                (0, _) => "holds".to_owned(),
                (count, _) => format!("BROKEN {count} times"),
            };
            let (name, checked, claim) = (verdict.name, verdict.checked, verdict.claim);
            writeln!(f, "{name}  {word:<18} {checked:>8} checked  {claim}")?;
            for violation in verdict.violations.iter().take(10) {
                writeln!(f, "      {violation}")?;
            }
        }
        Ok(())
    }
}
