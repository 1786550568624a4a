//! The callers in other languages, run as they stand against a real worker.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Stage, broker};

const STEPS: [&str; 7] = [
    "created ",
    "refused CONFLICT email_taken",
    "resent, replayed true",
    "queried Ada Lovelace",
    "event 1 user.created.v1",
    "gap after 1 filled [2]",
    "event 3 user.renamed.v1",
];

fn example(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(language)
}

/// A folder under `target/`, kept from run to run so that packages are fetched once.
fn workshop(language: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/examples-in").join(language);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: `{program}` is not installed");
    }
    found
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn check(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase().replace("[ 2 ]", "[2]");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), STEPS.len(), "{text}");
    for (line, step) in lines.iter().zip(STEPS) {
        assert!(line.starts_with(&step.to_lowercase()), "{step} is not in\n{text}");
    }
}

fn lines_of(file: PathBuf) -> usize {
    std::fs::read_to_string(file).unwrap().lines().count()
}

#[tokio::test]
async fn the_python_example_does_all_its_steps() {
    let script = example("python").join("roster_client.py");
    assert!(lines_of(script.clone()) < 60);
    if !is_installed("python3") {
        return;
    }
    let venv = workshop("python");
    let python = venv.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    }
    let wanted = example("python").join("requirements.txt");
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(wanted));
    let (stage, _worker) = Stage::with_worker().await;
    let output = run(Command::new(&python)
        .arg(script)
        .env("AMQP_URL", broker::url())
        .env("ROSTER_NAMESPACE", &stage.namespace));
    check(&output);
}

#[tokio::test]
async fn the_node_example_does_all_its_steps() {
    let script = example("node").join("roster_client.mjs");
    assert!(lines_of(script) < 60);
    if !is_installed("node") || !is_installed("npm") {
        return;
    }
    let copy = workshop("node");
    for file in ["package.json", "package-lock.json", "roster_client.mjs"] {
        std::fs::copy(example("node").join(file), copy.join(file)).unwrap();
    }
    let quiet = ["ci", "--no-audit", "--no-fund", "--prefer-offline"];
    run(Command::new("npm").args(quiet).current_dir(&copy));
    let (stage, _worker) = Stage::with_worker().await;
    let output = run(Command::new("node")
        .arg("roster_client.mjs")
        .current_dir(&copy)
        .env("AMQP_URL", broker::url())
        .env("ROSTER_NAMESPACE", &stage.namespace));
    check(&output);
}
