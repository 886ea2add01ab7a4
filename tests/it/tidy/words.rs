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
/// These stand for a report, an answer, metrics and a named actor, in what is shipped: sources without their tests, pages, documents.
const SHIPPED_WORDS: [&str; 9] =
    ["told", "tell", "tells", "untold", "figures", "whoever", "somebody", "nudges", "pleas"];
/// The name of a key in Redis, which two releases share.
const EXCEPTIONS: [(&str, &str); 5] = [
    ("crates/registry/src/redis/lua/core.lua", "nudges"),
    ("crates/registry/src/redis/stream.rs", "nudges"),
    ("crates/registry/tests/", "nudges"),
    ("deploy/redis/users.acl", "nudges"),
    ("docs/internals/state.md", "nudges"),
];
/// Limits are named `MAX_…` and `MIN_…`.
const PREFIXES: [&str; 4] = ["MOST_", "LONGEST", "LARGEST_", "SHORTEST"];
const TEXTS: [&str; 17] = [
    "rs", "lua", "proto", "js", "ts", "css", "html", "md", "py", "toml", "sh", "acl", "yml", "yaml", "cfg",
    "conf", "json",
];

/// Whether users or contributors read it as what Hatchery is, rather than as a test of it.
fn is_shipped(name: &str) -> bool {
    !name.starts_with("tests/")
        && !name.contains("/tests/")
        && !name.ends_with("tests.rs")
        && !name.ends_with("-lock.json")
}

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
        let shipped = is_shipped(&name);
        let excepted: Vec<&str> =
            EXCEPTIONS.iter().filter(|(file, _)| name.starts_with(file)).map(|(_, word)| *word).collect();
        for (number, line) in text.lines().enumerate() {
            let mut names = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let is_bad = |name: &str| {
                let mut words = name.split('_').map(str::to_lowercase);
                PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                    || words.any(|word| {
                        let word = word.as_str();
                        !excepted.contains(&word)
                            && (WORDS.contains(&word) || shipped && SHIPPED_WORDS.contains(&word))
                    })
            };
            if names.any(is_bad) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
