//! Rules the repository promises itself; [`documents`] has those of the documentation.

mod documents;
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::repository::{files, read, root, sources};

/// A file that is longer than this has more than one idea, or says it too long.
const MAX_LINES: usize = 450;

#[test]
fn no_source_file_is_longer_than_450_lines() {
    let lines = sources().into_iter().map(|(name, text)| (name, text.lines().count()));
    let long = lines.filter(|(_, lines)| *lines > MAX_LINES);
    assert_eq!(long.collect::<Vec<_>>(), []);
}

#[test]
fn no_file_of_the_pages_is_longer_than_450_lines() {
    let pages = files().into_iter().filter(|(name, _)| name.starts_with("crates/frontdoor/pages/"));
    let lines = |path: PathBuf| fs::read_to_string(path).unwrap().lines().count();
    let long = pages.map(|(name, path)| (name, lines(path))).filter(|(_, lines)| *lines > 450);
    assert_eq!(long.collect::<Vec<_>>(), []);
}

#[test]
fn no_file_is_named_after_nothing_in_particular() {
    let vague =
        ["util", "utils", "helper", "helpers", "common", "manager", "misc", "handler", "handlers", "service"];
    let bad = files().into_iter().map(|(name, _)| name).filter(|name| {
        Path::new(name).iter().any(|part| {
            let stem = part.to_str().unwrap().split('.').next().unwrap();
            vague.contains(&stem) && !name.starts_with("deploy/")
        })
    });
    assert_eq!(bad.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_architecture_names_every_crate() {
    let text = read("ARCHITECTURE.md");
    let missing = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let missing: Vec<String> = missing
        .filter(|name| !text.contains(&format!("`{name}`")) && !text.contains(&format!("**{name}**")))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn nothing_sleeps_on_a_thread() {
    let sleeps = ["thread", "sleep("].join("::");
    // The simulator is made of threads, and what stands in for a slow server is slow on purpose.
    let bad = sources().into_iter().filter(|(name, text)| {
        !name.starts_with("crates/sc-sim/") && !name.contains("/tests/") && text.contains(&sleeps)
    });
    assert_eq!(bad.map(|(name, _)| name).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn no_file_knows_where_somebody_worked() {
    let places = [["", "work", ""].join("/"), ["", "root", ""].join("/"), ["", "Users", ""].join("/")];
    let mut bad = Vec::new();
    for (name, path) in files() {
        let Ok(text) = fs::read_to_string(path) else { continue };
        for line in text.lines().filter(|line| places.iter().any(|place| line.contains(place.as_str()))) {
            bad.push(format!("{name}: {line}"));
        }
    }
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn every_source_file_begins_with_what_it_is_about() {
    let said_above = |name: &str| name.ends_with("tests.rs");
    let bad = sources().into_iter().filter(|(name, text)| !text.starts_with("//!") && !said_above(name));
    assert_eq!(bad.map(|(name, _)| name).collect::<Vec<_>>(), Vec::<String>::new());
}

/// Purpose, what it owns, invariants, failure: a name alone has none of these. What begins a crate or a directory says more.
#[test]
fn modules_say_more_of_themselves_than_their_name() {
    const MIN_WORDS: usize = 13;
    const MIN_WORDS_OF_MANY_FILES: usize = 40;
    let bad = sources().into_iter().filter_map(|(name, text)| {
        let is_own = name.starts_with("crates/") && name.contains("/src/") && !name.contains("/gen/");
        if !is_own || name.contains("tests") {
            return None;
        }
        let about = text.lines().take_while(|line| line.starts_with("//!"));
        let words: usize = about.map(|line| line.split_whitespace().count() - 1).sum();
        let of_many = name.ends_with("/lib.rs") || name.ends_with("/mod.rs");
        let least = if of_many { MIN_WORDS_OF_MANY_FILES } else { MIN_WORDS };
        (words < least).then(|| format!("{name}: {words} words"))
    });
    assert_eq!(bad.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn only_the_registry_knows_redis() {
    let bad = sources().into_iter().filter(|(name, text)| {
        name.starts_with("crates/") && !name.starts_with("crates/registry/") && text.contains("redis::")
    });
    assert_eq!(bad.map(|(name, _)| name).collect::<Vec<_>>(), Vec::<String>::new());
}

pub(crate) fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--locked",
            "--offline",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_dependency_has_a_licence_that_we_can_live_with() {
    let good = BTreeSet::from([
        "MIT",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "0BSD",
        "CC0-1.0",
        "Unlicense",
        "BSL-1.0",
        "MIT-0",
        "CDLA-Permissive-2.0",
        "Apache-2.0 WITH LLVM-exception",
    ]);
    let metadata = metadata();
    let mut bad = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none");
        // One of several will do; of those that come together every one has to.
        let alternatives = licence.replace(['(', ')'], "").replace('/', " OR ");
        let fine = alternatives.split(" OR ").any(|l| l.split(" AND ").all(|one| good.contains(one.trim())));
        if !fine {
            bad.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn every_dependency_comes_from_the_registry_or_this_repository() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let bad: Vec<String> = packages
        .iter()
        .filter(|package| match package["source"].as_str() {
            Some(source) => source != "registry+https://github.com/rust-lang/crates.io-index",
            None => {
                !package["manifest_path"].as_str().is_some_and(|path| Path::new(path).starts_with(root()))
            }
        })
        .map(|package| package["id"].to_string())
        .collect();
    assert_eq!(bad, Vec::<String>::new());
}
