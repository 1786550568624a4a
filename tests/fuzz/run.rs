//! Runs mutants through the checker: as many as asked, on every core, from a seed. What shows something new is bred
//! from; what breaks a rule, panics or takes too long is written down.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::check::Checker;
use super::input::Input;
use super::mutate::{Dice, mutant};

/// For one input, on a slow and busy machine in an unoptimised build. What takes longer grows faster than its input.
const LIMIT: Duration = Duration::from_secs(2);
/// One mutant in so many is shown to the schemas as well.
const THOROUGHLY: usize = 16;
/// Every thread breeds from at most so many: those of the corpus and what was new.
const POOL: usize = 4_000;

/// The files of the corpus, and the one that keeps what runs have found.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");
pub const FOUND: &str = "found.jsonl";

/// Every line of the corpus.
pub fn corpus() -> Vec<Input> {
    let mut files: Vec<_> =
        std::fs::read_dir(FOLDER).expect("the corpus").flatten().map(|file| file.path()).collect();
    files.sort();
    let mut inputs = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a file of the corpus");
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let input: Result<Input, _> = serde_json::from_str(line);
            inputs.push(input.unwrap_or_else(|error| panic!("{}, line {}: {error}", file.display(), n + 1)));
        }
    }
    inputs
}

/// What a run saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub inputs: u64,
    pub accepted: u64,
    /// One input for each verdict, the shortest.
    pub verdicts: BTreeMap<String, Input>,
    pub slowest: Duration,
    pub bytes: usize,
    /// The first that broke a rule, and the rule.
    pub broken: Option<(Input, String)>,
}

impl Seen {
    fn merge(mut self, other: Self) -> Self {
        self.inputs += other.inputs;
        self.accepted += other.accepted;
        self.slowest = self.slowest.max(other.slowest);
        self.bytes = self.bytes.max(other.bytes);
        self.broken = self.broken.or(other.broken);
        for (verdict, input) in other.verdicts {
            match self.verdicts.get(&verdict) {
                Some(shorter) if shorter.line().len() <= input.line().len() => {}
                _ => drop(self.verdicts.insert(verdict, input)),
            }
        }
        self
    }
}

/// One input through the checker; its verdict, or what is wrong.
pub fn one(checker: &Checker, input: &Input, thoroughly: bool) -> (Result<(String, bool), String>, Duration) {
    let begun = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| checker.check(input, thoroughly)));
    let took = begun.elapsed();
    let result = match result {
        Ok(Ok(verdict)) => Ok((format!("{:?} {verdict}", input.way), verdict.accepted())),
        Ok(Err(broken)) => Err(broken),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("a panic: {}", text.unwrap_or_default()))
        }
    };
    // A machine that was busy elsewhere is not so twice.
    let slow = took > LIMIT && result.is_ok() && {
        let begun = Instant::now();
        drop(catch_unwind(AssertUnwindSafe(|| checker.check(input, thoroughly))));
        begun.elapsed() > LIMIT
    };
    (if slow { Err(format!("took {took:?}")) } else { result }, took)
}

/// `inputs` mutants on `threads` threads, or what is done of them by `until`. The same seed and number of threads give
/// the same inputs.
pub fn run(inputs: u64, seed: u64, threads: usize, until: Option<Instant>) -> Seen {
    let corpus = corpus();
    let share = inputs.div_ceil(threads as u64);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(thread as u64));
                let pool = corpus.clone();
                scope.spawn(move || breed(pool, dice, share, until))
            })
            .collect();
        let seen = threads.into_iter().map(|thread| thread.join().expect("the thread itself does not panic"));
        seen.fold(Seen::default(), Seen::merge)
    })
}

fn breed(mut pool: Vec<Input>, mut dice: Dice, inputs: u64, until: Option<Instant>) -> Seen {
    let checker = Checker::new();
    let (mut seen, mut known) = (Seen::default(), HashSet::new());
    pool.sort_by_key(|input| !checker.decoder.decode(input).accepted());
    let good = pool.iter().take_while(|input| checker.decoder.decode(input).accepted()).count();
    for _ in 0..inputs {
        if until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        let input = mutant(&mut dice, &pool, good);
        let thoroughly = dice.one_in(THOROUGHLY);
        let (result, took) = one(&checker, &input, thoroughly);
        seen.inputs += 1;
        seen.slowest = seen.slowest.max(took);
        seen.bytes = seen.bytes.max(input.body.len());
        match result {
            Err(broken) => {
                seen.broken = Some((input, broken));
                return seen;
            }
            Ok((verdict, accepted)) => {
                seen.accepted += u64::from(accepted);
                if !known.contains(&verdict) {
                    known.insert(verdict.clone());
                    if pool.len() < POOL && input.body.len() < 2_048 {
                        pool.push(input.clone());
                    }
                    seen.verdicts.insert(verdict, input);
                }
            }
        }
    }
    seen
}

/// A verdict without the names of fields.
fn kind_of(verdict: &str) -> String {
    let bare = |word| str::split_once(word, ':').map_or(word, |(_, reason)| reason);
    let words: BTreeSet<&str> = verdict.split(' ').map(bare).collect();
    words.into_iter().collect::<Vec<_>>().join(" ")
}

/// Adds to the corpus one input for each kind of verdict that it does not show yet; how many.
pub fn keep(seen: &Seen) -> usize {
    let checker = Checker::new();
    let mut shown: BTreeSet<String> = corpus()
        .iter()
        .filter_map(|input| one(&checker, input, false).0.ok())
        .map(|(verdict, _)| kind_of(&verdict))
        .collect();
    let path = Path::new(FOLDER).join(FOUND);
    let mut text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut count = 0;
    for (verdict, input) in &seen.verdicts {
        // The short and simple ones are worth reading.
        let simple = input.line().len() <= 1_024 && verdict.split(' ').count() <= 4;
        if !simple || !shown.insert(kind_of(verdict)) {
            continue;
        }
        let expect = verdict.split_once(' ').map_or("", |(_, verdict)| verdict).to_owned();
        text.push_str(&Input { expect, ..input.clone() }.line());
        text.push('\n');
        count += 1;
    }
    std::fs::write(path, text).expect("the corpus is written");
    count
}
