//! Words that were replaced by the field's own do not come back.

use std::fs;
use std::path::Path;

use crate::repository::files;

/// Each stood for something that has a standard term: desired state, wake-up, permit, eviction, adopted spawn, orphan, disconnect report,
/// release by id, timeout.
const WORDS: [&str; 18] = [
    "wish",
    "wishes",
    "nudge",
    "nudged",
    "seat",
    "seats",
    "plea",
    "heir",
    "heirs",
    "estate",
    "bury",
    "strays",
    "shun",
    "pardon",
    "improvise",
    "goodbye",
    "renounce",
    "patience",
];
/// Limits are named `MAX_…` and `MIN_…`.
const PREFIXES: [&str; 4] = ["MOST_", "LONGEST", "LARGEST_", "SHORTEST"];
const TEXTS: [&str; 10] = ["rs", "lua", "proto", "js", "ts", "css", "html", "md", "py", "toml"];

#[test]
fn words_that_the_fields_own_replaced_do_not_come_back() {
    let mut found = Vec::new();
    for (name, path) in files() {
        let is_text = Path::new(&name).extension().is_some_and(|kind| TEXTS.iter().any(|text| kind == *text));
        // This file names them, and the changes of earlier releases are as they were described.
        if !is_text || name.ends_with("tidy/words.rs") || name == "CHANGELOG.md" {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let mut names = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let is_bad = |name: &str| {
                let mut words = name.split('_').map(str::to_lowercase);
                PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                    || words.any(|word| WORDS.contains(&word.as_str()))
            };
            if names.any(is_bad) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
