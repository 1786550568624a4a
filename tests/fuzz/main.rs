//! Throws random messages at the decoder: everything that happens to one between its delivery and the lanes, on the
//! worker's own path. Needs no servers. The ordinary tests replay the corpus and try a small, fixed slice;
//! `scripts/fuzz` tries as many as asked.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why on standard error"
)]

mod check;
mod input;
mod mutate;
mod oracle;
mod run;
mod verdict;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use check::{COMMANDS, Checker, QUERIES};
use input::{Input, Way};
use roster::application::{command, query};

#[test]
fn every_message_type_is_in_the_tables_and_has_an_example_that_is_accepted() {
    let registry = command::registry().unwrap();
    let commands: BTreeSet<_> = registry.contracts().map(|contract| contract.name).collect();
    let queries: BTreeSet<_> = query::contracts().map(|contract| contract.name).collect();
    assert_eq!(commands, COMMANDS.iter().map(|pair| pair.0).collect());
    assert_eq!(queries, QUERIES.iter().map(|pair| pair.0).collect());
    let checker = Checker::new();
    assert_eq!(checker.schemas(Way::Command).names(), commands);
    assert_eq!(checker.schemas(Way::Query).names(), queries);
    let accepted: BTreeSet<String> = run::corpus()
        .into_iter()
        .filter(|input| checker.decoder.decode(input).accepted())
        .filter_map(|input| input.kind)
        .collect();
    let all = commands.union(&queries).map(|name| (*name).to_owned()).collect();
    assert_eq!(accepted, all);
}

#[test]
fn the_corpus_is_judged_as_it_says() {
    let checker = Checker::new();
    let mut wrong = Vec::new();
    for input in run::corpus() {
        let verdict = match run::one(&checker, &input, true).0 {
            Ok((verdict, _)) => verdict,
            Err(broken) => broken,
        };
        let expected = format!("{:?} {}", input.way, input.expect);
        if verdict != expected {
            wrong.push(format!("{}\n    {verdict}\n    expected {expected}", shown(&input)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_line_of_the_corpus_is_read_as_it_was_written() {
    for input in run::corpus() {
        assert_eq!(serde_json::from_str::<Input>(&input.line()).unwrap(), input);
    }
}

#[test]
fn a_small_slice_breaks_no_rule() {
    let seen = run::run(20_000, 1, 2, None);
    report(&seen);
    assert!(seen.accepted > 1_000, "hardly anything is accepted, so hardly anything is tested");
}

/// `ROSTER_FUZZ_INPUTS`, `ROSTER_FUZZ_SECONDS` and `ROSTER_FUZZ_SEED` say how many; with `ROSTER_FUZZ_KEEP` what is new goes into the corpus.
#[test]
#[ignore = "takes as long as asked: scripts/fuzz"]
fn as_many_as_asked() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let inputs = number("ROSTER_FUZZ_INPUTS").unwrap_or(1_000_000);
    let seed = number("ROSTER_FUZZ_SEED").unwrap_or_else(rand::random);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    eprintln!("{inputs} inputs on {threads} threads, seed {seed}");
    let begun = Instant::now();
    let until = number("ROSTER_FUZZ_SECONDS").map(|seconds| begun + Duration::from_secs(seconds));
    let seen = run::run(inputs, seed, threads, until);
    eprintln!(
        "{} inputs in {:.0} s: {} accepted, {} verdicts, the largest body {} bytes, the slowest {:?}",
        seen.inputs,
        begun.elapsed().as_secs_f64(),
        seen.accepted,
        seen.verdicts.len(),
        seen.bytes,
        seen.slowest
    );
    if std::env::var_os("ROSTER_FUZZ_KEEP").is_some() {
        eprintln!("{} lines added to the corpus", run::keep(&seen));
    }
    report(&seen);
}

/// Fails with the first input that broke a rule, as a line for the corpus.
fn report(seen: &run::Seen) {
    if let Some((input, broken)) = &seen.broken {
        panic!("{broken}\n{}", shown(input));
    }
}

fn shown(input: &Input) -> String {
    let line = input.line();
    match line.len() {
        0..4_000 => line,
        length => {
            let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-input.json");
            std::fs::write(&path, &line).expect("the input is written");
            format!("{} ({length} bytes): {}…", path.display(), &line[..line.floor_char_boundary(200)])
        }
    }
}
