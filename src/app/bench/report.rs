//! What was measured: figures of each round, their medians and ranges, and the ratios that matter.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::Plan;

/// One figure, once per round.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: &'static str,
    pub unit: &'static str,
    pub values: Vec<f64>,
}

/// Which way a ratio should go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// Two figures of one round, one divided by the other.
#[derive(Debug, Clone)]
pub struct Ratio {
    pub name: &'static str,
    pub what: &'static str,
    pub target: Target,
    pub values: Vec<f64>,
}

/// How long calls took, over all rounds, in microseconds.
#[derive(Debug, Clone)]
pub struct Waits {
    pub name: &'static str,
    pub histogram: Histogram<u64>,
}

/// One point of the sweep.
#[derive(Debug, Clone)]
pub struct SweepPoint {
    pub lanes: u32,
    pub batch: u32,
    pub rates: Vec<f64>,
}

/// Name, what it says, and the target: in the order of the table.
const RATIOS: [(&str, &str, Target); 10] = [
    ("batch_to_pipe", "commands end to end, to a pipe without a database", Target::AtLeast(0.70)),
    ("batch_to_single", "commands end to end, to one transaction per command", Target::AtLeast(7.0)),
    ("get_to_echo", "user.get.v1 under load, to a bare echo server", Target::AtLeast(0.75)),
    ("create_to_hash", "user.create.v1, to argon2 alone on all cores", Target::AtLeast(0.90)),
    ("idle_p50_to_floor", "command to reply one at a time, p50, to its floor", Target::AtMost(1.4)),
    ("loaded_p99_to_p50", "command to reply at half of the top rate, p99 to p50", Target::AtMost(5.0)),
    ("get_p99_under_hashing", "user.get.v1 p99 while passwords are hashed, to idle", Target::AtMost(3.0)),
    ("million_users", "throughput with 1,000,000 users and 5,000,000 events", Target::AtLeast(0.90)),
    ("held_transaction", "throughput while a transaction is held open", Target::AtLeast(0.90)),
    ("rss_mib_backlog", "MiB of the worker with 1,000,000 commands waiting", Target::AtMost(64.0)),
];

/// A ratio, the figure above and the figure below the line.
const OF_EACH_ROUND: [(&str, &str, &str); 6] = [
    ("batch_to_pipe", "batch", "pipe"),
    ("batch_to_single", "batch", "single"),
    ("get_to_echo", "get", "echo"),
    ("create_to_hash", "create", "hash"),
    ("idle_p50_to_floor", "idle_p50", "idle_floor_p50"),
    ("loaded_p99_to_p50", "loaded_p99", "loaded_p50"),
];

/// Everything that one call of `roster bench` found.
#[derive(Debug, Clone)]
pub struct Report {
    pub messages: u64,
    pub users: u64,
    pub rounds: u32,
    pub cores: usize,
    pub series: Vec<Series>,
    pub ratios: Vec<Ratio>,
    pub waits: Vec<Waits>,
    pub sweep: Vec<SweepPoint>,
}

impl Report {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            messages: plan.messages,
            users: plan.users,
            rounds: plan.rounds,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            series: Vec::new(),
            ratios: Vec::new(),
            waits: Vec::new(),
            sweep: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, name: &'static str, unit: &'static str, value: f64) {
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series { name, unit, values: vec![value] }),
        }
    }

    pub(super) fn ratio(&mut self, name: &'static str, value: f64) {
        if let Some(ratio) = self.ratios.iter_mut().find(|ratio| ratio.name == name) {
            ratio.values.push(value);
        } else if let Some((name, what, target)) = RATIOS.into_iter().find(|(known, ..)| *known == name) {
            self.ratios.push(Ratio { name, what, target, values: vec![value] });
            let place = |ratio: &Ratio| RATIOS.iter().position(|(name, ..)| *name == ratio.name);
            self.ratios.sort_by_key(place);
        }
    }

    pub(super) fn histogram(&mut self, name: &'static str, histogram: &Histogram<u64>) {
        match self.waits.iter_mut().find(|waits| waits.name == name) {
            // All have the same bounds.
            Some(waits) => drop(waits.histogram.add(histogram)),
            None => self.waits.push(Waits { name, histogram: histogram.clone() }),
        }
    }

    pub(super) fn sweep(&mut self, lanes: u32, batch: u32, rate: f64) {
        match self.sweep.iter_mut().find(|point| (point.lanes, point.batch) == (lanes, batch)) {
            Some(point) => point.rates.push(rate),
            None => self.sweep.push(SweepPoint { lanes, batch, rates: vec![rate] }),
        }
    }

    /// Divides the figures of the round that has just ended: single figures vary more between rounds than ratios.
    pub(super) fn end_round(&mut self) {
        for (name, above, below) in OF_EACH_ROUND {
            if let (Some(above), Some(below)) = (self.last(above), self.last(below)) {
                self.ratio(name, above / below);
            }
        }
    }

    fn last(&self, name: &str) -> Option<f64> {
        self.series.iter().find(|series| series.name == name)?.values.last().copied()
    }

    /// The median of what was noted so far.
    #[must_use]
    pub fn median(&self, name: &str) -> Option<f64> {
        self.series.iter().find(|series| series.name == name).map(|series| median(&series.values))
    }

    /// For machines: medians, ranges and every figure.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut ratios = Map::new();
        let mut targets = Map::new();
        for ratio in &self.ratios {
            ratios.insert(ratio.name.into(), json!(median(&ratio.values)));
            let (kind, bound) = match ratio.target {
                Target::AtLeast(bound) => ("at_least", bound),
                Target::AtMost(bound) => ("at_most", bound),
            };
            let (min, max) = range(&ratio.values);
            let details = json!({ kind: bound, "met": ratio.met(), "min": min, "max": max });
            targets.insert(ratio.name.into(), details);
        }
        let mut figures = Map::new();
        for series in &self.series {
            let (min, max) = range(&series.values);
            let median = median(&series.values);
            figures.insert(
                series.name.into(),
                json!({ "unit": series.unit, "median": median, "min": min, "max": max, "all": series.values }),
            );
        }
        let mut waits = Map::new();
        for one in &self.waits {
            let quantile = |quantile: f64| one.histogram.value_at_quantile(quantile);
            waits.insert(
                one.name.into(),
                json!({
                    "unit": "us", "count": one.histogram.len(), "p50": quantile(0.5), "p90": quantile(0.9),
                    "p99": quantile(0.99), "p999": quantile(0.999), "max": one.histogram.max(),
                }),
            );
        }
        let point = |point: &SweepPoint| json!({ "lanes": point.lanes, "batch": point.batch, "median": median(&point.rates), "all": point.rates });
        json!({
            "messages": self.messages, "users": self.users, "rounds": self.rounds, "cores": self.cores,
            "ratios": ratios, "targets": targets, "figures": figures, "latencies": waits,
            "sweep": self.sweep.iter().map(point).collect::<Vec<_>>(),
        })
    }
}

impl Ratio {
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    #[must_use]
    pub fn met(&self) -> bool {
        match self.target {
            Target::AtLeast(bound) => self.median() >= bound,
            Target::AtMost(bound) => self.median() <= bound,
        }
    }

    /// `≥ 0.70 ok`
    #[must_use]
    pub fn verdict(&self) -> String {
        let mut text = match self.target {
            Target::AtLeast(bound) => format!("≥ {bound:.2}"),
            Target::AtMost(bound) => format!("≤ {bound:.2}"),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, " {}", if self.met() { "ok" } else { "missed" });
        text
    }
}

impl Series {
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        range(&self.values)
    }
}

/// Of an even number, the mean of the middle two.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.wrapping_sub(1)), at(middle)) }
}

/// The least and the most.
#[must_use]
pub fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[3.0, 1.0, 2.0], 2.0)]
    #[case(&[4.0, 1.0, 2.0, 3.0], 2.5)]
    #[case(&[7.0], 7.0)]
    fn the_median_is_in_the_middle(#[case] values: &[f64], #[case] expected: f64) {
        assert!((median(values) - expected).abs() < 1e-9);
    }

    #[rstest]
    #[case(Target::AtLeast(0.7), 0.7, "≥ 0.70 ok")]
    #[case(Target::AtLeast(0.7), 0.69, "≥ 0.70 missed")]
    #[case(Target::AtMost(64.0), 65.0, "≤ 64.00 missed")]
    fn a_ratio_says_whether_it_is_met(#[case] target: Target, #[case] value: f64, #[case] expected: &str) {
        let ratio = Ratio { name: "x", what: "x", target, values: vec![value] };
        assert_eq!(ratio.verdict(), expected);
    }
}
