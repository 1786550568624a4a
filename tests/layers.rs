//! Reads the sources and enforces what no lint can: which layer may name what, and the house
//! rules of form.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One source file, without comments, string contents and its own tests.
struct Source {
    /// Relative to `src`, with forward slashes.
    path: String,
    text: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|end| end == "rs") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let code = match path.ends_with("tests.rs") {
            true => String::new(),
            false => bare(&text),
        };
        Source { path, text, code }
    };
    files.into_iter().map(source).collect()
}

/// The code without comments and string contents, up to its unit tests.
fn bare(text: &str) -> String {
    let text = match text.find("#[cfg(test)]\nmod ") {
        Some(at) => &text[..at],
        None => text,
    };
    let mut code = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"', '\'']) {
        code.push_str(&rest[..at]);
        rest = &rest[at..];
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with('"') {
            let hashes = code.len() - code.trim_end_matches('#').len();
            let raw = code.trim_end_matches('#').ends_with('r');
            string_end(rest, raw.then_some(hashes))
        } else if let Some(char_end) = char_literal(rest) {
            char_end
        } else {
            code.push_str(&rest[..1]);
            1
        };
        rest = &rest[skip..];
    }
    code.push_str(rest);
    code
}

fn string_end(text: &str, raw: Option<usize>) -> usize {
    if let Some(hashes) = raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return text[1..].find(&end).map_or(text.len(), |at| 1 + at + end.len());
    }
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal; `None` for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let mut letters = text.char_indices().skip(1);
    let (_, first) = letters.next()?;
    if first == '\\' {
        let end = text[3..].find('\'')?;
        return Some(3 + end + 1);
    }
    match letters.next()? {
        (at, '\'') => Some(at + 1),
        _ => None,
    }
}

/// Every path written in the code, `use` groups written out: `crate::domain::user`, `sqlx::query`.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let starts = rest[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        if starts {
            let tree: String = rest[at + 4..end].split_whitespace().collect::<Vec<_>>().join(" ");
            expand("", &tree, &mut found);
        }
        rest = &rest[at + 4..];
    }
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for word in code.split(|c| !part(c)).filter(|word| word.contains("::")) {
        found.insert(word.to_owned());
    }
    found
}

fn expand(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree).trim();
        found.insert(format!("{prefix}{path}"));
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let inner = tree[open + 1..].trim_end().trim_end_matches('}');
    let mut depth = 0;
    let mut start = 0;
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&prefix, &inner[start..], found);
    }
}

/// The crates of Cargo.toml, under the names they have in code.
fn dependencies() -> BTreeSet<String> {
    let manifest = include_str!("../Cargo.toml");
    let (_, after) = manifest.split_once("[dependencies]").unwrap();
    let section = after.split("\n[").next().unwrap();
    let names = section.lines().filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.trim().replace('-', "_")).collect()
}

/// What a layer may name of ours and of others; `None` for no limit.
struct Rule {
    layer: &'static str,
    ours: &'static [&'static str],
    crates: Option<&'static [&'static str]>,
}

const RULES: [Rule; 4] = [
    Rule { layer: "domain", ours: &["domain"], crates: Some(&["serde", "thiserror", "uuid", "chrono"]) },
    Rule {
        layer: "application",
        // The places to die at are nothing but a name: without their feature, not even that.
        ours: &["domain", "application", "failpoint"],
        crates: Some(&["serde", "thiserror", "uuid", "chrono", "serde_json", "secrecy", "schemars"]),
    },
    Rule {
        layer: "infrastructure",
        ours: &[
            "domain",
            "application",
            "infrastructure",
            "failpoint",
            "config",
            "telemetry",
            "metrics",
            "lifecycle",
        ],
        crates: None,
    },
    Rule {
        layer: "interfaces",
        ours: &[
            "domain",
            "application",
            "interfaces",
            "failpoint",
            "config",
            "telemetry",
            "metrics",
            "client",
            "app",
            "lifecycle",
        ],
        crates: None,
    },
];

/// Crates that stand only under these paths.
const HOMES: [(&str, &[&str]); 3] = [
    ("sqlx", &["infrastructure/postgres/"]),
    ("lapin", &["infrastructure/rabbitmq/", "interfaces/amqp/", "client/", "client.rs"]),
    ("axum", &["interfaces/http/"]),
];

fn is_in(path: &str, layer: &str) -> bool {
    path.starts_with(&format!("{layer}/")) || path == format!("{layer}.rs")
}

#[test]
fn each_layer_names_only_what_it_may() {
    let known = dependencies();
    let mut broken = Vec::new();
    for source in sources() {
        let paths = paths(&source.code);
        for rule in RULES.iter().filter(|rule| is_in(&source.path, rule.layer)) {
            for path in &paths {
                let first = path.split("::").next().unwrap_or_default();
                let ours = path.strip_prefix("crate::").map(|rest| rest.split("::").next().unwrap());
                let allowed = match (ours, rule.crates) {
                    (Some(module), _) => rule.ours.contains(&module),
                    (None, Some(crates)) => !known.contains(first) || crates.contains(&first),
                    (None, None) => true,
                };
                if !allowed {
                    broken.push(format!("{} names {path}", source.path));
                }
            }
        }
        for (name, homes) in HOMES {
            let names_it = paths.iter().any(|path| path.split("::").next() == Some(name));
            let at_home = homes.iter().any(|home| source.path.starts_with(home));
            if names_it && !at_home {
                broken.push(format!("{} names {name}", source.path));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What must not stand in the code of a path, and why.
const BANNED: [(&str, &str, &str); 8] = [
    ("domain/", "Utc::now", "the clock is a parameter"),
    ("domain/", "SystemTime::now", "the clock is a parameter"),
    ("domain/", "Uuid::now_v7", "randomness is a parameter"),
    ("domain/", "Uuid::new_v4", "randomness is a parameter"),
    ("application/command/", "Utc::now", "the clock comes through the context"),
    ("application/command/", "Uuid::now_v7", "randomness comes through the context"),
    ("", "async_trait", "traits have async functions themselves"),
    ("", "wait_for_confirms", "it waits for the last confirm only"),
];

#[test]
fn nothing_banned_stands_in_the_code() {
    let mut broken = Vec::new();
    let mut macros = Vec::new();
    for source in sources() {
        for (place, word, reason) in BANNED {
            if source.path.starts_with(place) && source.code.contains(word) {
                broken.push(format!("{}: {word}: {reason}", source.path));
            }
        }
        let prints = ["println!", "print!", "eprintln!", "eprint!"];
        let prints = prints.iter().any(|word| source.code.contains(word));
        if prints && !source.path.starts_with("interfaces/cli") {
            broken.push(format!("{}: prints, outside interfaces/cli", source.path));
        }
        if source.code.contains("macro_rules!") {
            macros.push(source.path.clone());
        }
        let attributes = source.code.match_indices("#[expect(").chain(source.code.match_indices("#[allow("));
        for (at, _) in attributes {
            let attribute = &source.code[at..];
            let attribute = &attribute[..attribute.find(")]").unwrap_or(attribute.len())];
            if attribute.starts_with("#[allow(") || !attribute.contains("reason") {
                broken.push(format!("{}: {attribute}: expect with a reason", source.path));
            }
        }
    }
    if macros.len() > 1 {
        broken.push(format!("at most one macro of our own: {macros:?}"));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    let vague = ["utils", "util", "common", "helpers", "helper", "types", "misc"];
    let mut broken = Vec::new();
    for source in sources() {
        let header = source.text.lines().take_while(|line| line.starts_with("//!"));
        if header.count() == 0 {
            broken.push(format!("{}: no module header", source.path));
        }
        let lines = source.text.lines().count();
        let own_tests = source.text.lines().skip_while(|line| *line != "#[cfg(test)]").count();
        if lines > 450 || lines - own_tests > 380 {
            broken.push(format!("{}: {lines} lines, {own_tests} of them tests", source.path));
        }
        let names = source.path.trim_end_matches(".rs").split('/');
        for name in names.filter(|name| vague.contains(name)) {
            broken.push(format!("{}: {name} says nothing", source.path));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_metric_is_recorded() {
    let sources = sources();
    let (names, users): (Vec<_>, Vec<_>) = sources.iter().partition(|source| source.path == "metrics.rs");
    let constants = names[0].code.lines().filter_map(|line| line.strip_prefix("pub const "));
    let names: Vec<&str> = constants.filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    assert!(names.len() > 10, "{names:?}");
    let recorded = |name: &str| users.iter().any(|source| source.code.contains(&format!("metrics::{name}")));
    let idle: Vec<_> = names.iter().filter(|name| **name != "BUILD_INFO" && !recorded(name)).collect();
    assert!(idle.is_empty(), "never recorded: {idle:?}");
}

#[test]
fn sql_is_lower_case() {
    let words = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "CREATE ", " WHERE ", " FROM "];
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("infrastructure/postgres/")) {
        let code = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code.filter(|line| words.iter().any(|word| line.contains(word))) {
            broken.push(format!("{}: {}", source.path, line.trim()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_reader_sees_through_groups_comments_and_strings() {
    let code = bare(concat!(
        "//! sqlx::no\n/* lapin::no */ use crate::{domain::{user::User, id}, interfaces as i};\n",
        "let a = \"axum::no \\\" \"; let b = r#\"tokio::no\"#; let c = '\"'; fn f<'a>() { sqlx::query(x) }\n",
        "#[cfg(test)]\nmod tests { rstest::no }",
    ));
    let paths = paths(&code);
    for expected in ["crate::domain::user::User", "crate::domain::id", "crate::interfaces", "sqlx::query"] {
        assert!(paths.contains(expected), "{expected} in {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.contains("no")), "{paths:?}");
}
