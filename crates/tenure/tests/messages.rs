//! docs/migration.md says what to do about each message: those that it names are said by the programs.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

const CRATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What is between two places for names is told apart by so much of it.
const ENOUGH: usize = 6;

fn sources(under: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, all);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            all.push(entry);
        }
    }
}

/// String literals as they are said: without the ends of their lines.
fn said() -> String {
    let mut all = Vec::new();
    for one in fs::read_dir(CRATES).unwrap().map(|one| one.unwrap().path().join("src")) {
        if one.is_dir() {
            sources(&one, &mut all);
        }
    }
    let text: String = all.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut lines = text.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |said, line| said + line.trim_start()).replace("\\\"", "\"")
}

/// The messages in the first cell of each row.
fn named(page: &str) -> Vec<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let messages = cells.flat_map(|cell| cell.split('`').step_by(2));
    let parts = messages.flat_map(|message| message.split('…')).map(str::trim);
    parts.filter(|part| part.len() >= ENOUGH).collect()
}

#[test]
fn every_message_that_the_page_explains_is_said_by_a_program() {
    let page = fs::read_to_string(Path::new(CRATES).join("../docs/migration.md")).unwrap();
    let (said, named) = (said(), named(&page));
    assert!(named.len() > 100, "the page has its tables");
    let unsaid: Vec<_> = named.into_iter().filter(|message| !said.contains(*message)).collect();
    assert!(unsaid.is_empty(), "nobody says this any more: {unsaid:#?}");
}
