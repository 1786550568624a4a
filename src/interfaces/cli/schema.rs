//! `roster schema`: writes the contract's schemas, or says how a folder differs from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io, iter};

use clap::{Args, Subcommand};
use serde_json::Value;
use thiserror::Error;

use crate::application::registry::DuplicateName;
use crate::application::schema::{self, compatibility};

use super::outcome::Outcome;
use super::screen::{complain, note};

/// The contract as JSON Schemas and an AsyncAPI document
#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Write a JSON Schema for each message, and the AsyncAPI document
    Export {
        /// Where to; schemas of messages that are no more are removed from there
        #[arg(long, value_name = "FOLDER", default_value = "schemas")]
        dir: PathBuf,
    },
    /// Say whether a folder holds what export would write, and whether an older export's promises are kept
    Check {
        #[arg(long, value_name = "FOLDER", default_value = "schemas")]
        dir: PathBuf,
        /// An older export; a field that is gone from it, or newly required, is an error, an added one is not
        #[arg(long, value_name = "FOLDER")]
        against: Option<PathBuf>,
    },
}

/// Why the schemas could not be written or are not what they should be.
#[derive(Debug, Error)]
enum SchemaError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: not JSON: {source}", path.display())]
    NotJson { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Duplicate(#[from] DuplicateName),
    #[error("{} is not in step with the types:\n{differences}", dir.display())]
    OutOfStep { dir: PathBuf, differences: String },
    #[error("these changes break callers:\n{0}")]
    Incompatible(String),
}

impl SchemaError {
    /// What to do about it.
    fn next(&self) -> String {
        match self {
            Self::OutOfStep { dir, .. } => format!("roster schema export --dir {}", dir.display()),
            Self::Incompatible(_) => "make it a new version of the message, beside this one".to_owned(),
            Self::File { .. } => "--dir names the folder; in a checkout it is schemas".to_owned(),
            Self::NotJson { .. } | Self::Duplicate(_) => String::new(),
        }
    }
}

/// Writes or compares, and says on standard error what is wrong.
#[must_use]
pub fn run(args: &SchemaArgs) -> Outcome {
    let done = match &args.what {
        What::Export { dir } => export(dir),
        What::Check { dir, against } => {
            check(dir).and_then(|()| against.as_deref().map_or(Ok(()), keeps_promises_of))
        }
    };
    match done {
        Ok(()) => Outcome::Done,
        Err(error) => {
            complain(&error.to_string(), &error.next());
            Outcome::Refused
        }
    }
}

fn export(dir: &Path) -> Result<(), SchemaError> {
    let files = schema::files()?;
    for (name, text) in &files {
        let path = dir.join(name);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(dir))?;
            fs::write(&path, text)
        };
        write().map_err(|source| SchemaError::File { path: path.clone(), source })?;
    }
    for name in present(dir)?.iter().filter(|name| !files.contains_key(*name)) {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(|source| SchemaError::File { path: path.clone(), source })?;
    }
    note(&format!("{} files in {}", files.len(), dir.display()));
    Ok(())
}

fn check(dir: &Path) -> Result<(), SchemaError> {
    let files = schema::files()?;
    let mut differences: Vec<String> = Vec::new();
    for (name, text) in &files {
        match fs::read_to_string(dir.join(name)) {
            Ok(found) if found == *text => {}
            Ok(_) => differences.push(format!("  {name} is not what the types say")),
            Err(error) => differences.push(format!("  {name}: {error}")),
        }
    }
    let stale = present(dir)?.into_iter().filter(|name| !files.contains_key(name));
    differences.extend(stale.map(|name| format!("  {name} belongs to no message")));
    if differences.is_empty() {
        return Ok(());
    }
    Err(SchemaError::OutOfStep { dir: dir.to_owned(), differences: differences.join("\n") })
}

fn keeps_promises_of(older: &Path) -> Result<(), SchemaError> {
    let mut old = BTreeMap::new();
    for name in present(older)? {
        let path = older.join(&name);
        let text = fs::read(&path).map_err(|source| SchemaError::File { path: path.clone(), source })?;
        let schema: Value =
            serde_json::from_slice(&text).map_err(|source| SchemaError::NotJson { path, source })?;
        old.insert(name, schema);
    }
    let breaks = compatibility::compare(&old, &schema::schemas()?);
    if breaks.is_empty() {
        return Ok(());
    }
    Err(SchemaError::Incompatible(breaks.iter().map(|one| format!("  {one}")).collect::<Vec<_>>().join("\n")))
}

/// The schemas of a folder, by their path in it. Only files that say they are ours: a folder given by mistake
/// loses nothing.
fn present(dir: &Path) -> Result<Vec<String>, SchemaError> {
    let mut names = Vec::new();
    for folder in iter::once("").chain(schema::FOLDERS) {
        let path = dir.join(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_empty() => continue,
            Err(source) => return Err(SchemaError::File { path, source }),
        };
        for entry in entries {
            let entry = entry.map_err(|source| SchemaError::File { path: path.clone(), source })?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".json") && fs::read_to_string(entry.path()).is_ok_and(|text| is_ours(&text)) {
                names.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    names.sort();
    Ok(names)
}

fn is_ours(text: &str) -> bool {
    text.contains(&format!("\"$id\": \"{}", schema::BASE))
}
