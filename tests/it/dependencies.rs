//! Which crates the programs are made of: no crate in two versions, and one TLS and cryptography stack.
//!
//! It is stricter than `cargo deny check bans`, which cannot leave out what only tests and macros need. Known vulnerabilities need the
//! network: `tests/advisories` looks for them, and for licences and sources.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::tidy::metadata;

/// Crates that may be there in these versions, and which dependency holds the older ones.
const EXCEPTIONS: [(&str, &[&str]); 3] = [
    // 0.23: rcgen's pem.
    ("base64", &["0.22", "0.23"]),
    // 0.2: ring. 0.3: tungstenite's rand.
    ("getrandom", &["0.2", "0.3", "0.4"]),
    // 0.6: jsonwebtoken's signature. 0.9: tungstenite's rand.
    ("rand_core", &["0.10", "0.6", "0.9"]),
];

/// What `rustls` with `ring` does here already.
const SECOND_STACKS: [&str; 5] = ["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys"];

/// The crates that are linked into the programs, with their versions: no macros, and nothing that only builds or tests need.
fn linked() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let id = |value: &Value| value.as_str().unwrap().to_owned();
    let packages: BTreeMap<_, _> =
        list(&metadata["packages"]).into_iter().map(|package| (id(&package["id"]), package)).collect();
    let nodes: BTreeMap<_, _> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (id(&node["id"]), node)).collect();
    let is_macro = |package: &Value| {
        list(&package["targets"]).iter().any(|target| list(&target["kind"]).contains(&"proc-macro".into()))
    };
    let mut left: Vec<String> = list(&metadata["workspace_members"]).iter().map(id).collect();
    left.retain(|member| packages[member]["name"] != "hatchery-tests");
    let mut seen = BTreeSet::new();
    while let Some(next) = left.pop() {
        if is_macro(&packages[&next]) || !seen.insert(next.clone()) {
            continue;
        }
        let dependencies = list(&nodes[&next]["deps"]).into_iter();
        let linked =
            dependencies.filter(|to| list(&to["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
        left.extend(linked.map(|to| id(&to["pkg"])));
    }
    let mut linked = BTreeMap::<String, BTreeSet<String>>::new();
    for package in seen.iter().map(|id| &packages[id]) {
        linked.entry(id(&package["name"])).or_default().insert(id(&package["version"]));
    }
    linked
}

#[test]
fn no_crate_is_linked_in_two_versions() {
    let twice = linked().into_iter().filter(|(_, versions)| versions.len() > 1);
    // Semantic versioning counts the first number that is not zero.
    let series = |version: &String| {
        let numbers = if version.starts_with("0.") { 2 } else { 1 };
        version.split('.').take(numbers).collect::<Vec<_>>().join(".")
    };
    let found: BTreeMap<String, Vec<String>> =
        twice.map(|(name, versions)| (name, versions.iter().map(series).collect())).collect();
    let excepted: BTreeMap<String, Vec<String>> = EXCEPTIONS
        .iter()
        .map(|(name, versions)| ((*name).to_owned(), versions.iter().map(|&v| v.to_owned()).collect()))
        .collect();
    assert_eq!(found, excepted, "another crate is there twice, or an exception is not needed any more");
}

#[test]
fn there_is_one_tls_and_cryptography_stack() {
    let linked = linked();
    assert!(linked.contains_key("rustls") && linked.contains_key("ring"));
    let second: Vec<_> = SECOND_STACKS.into_iter().filter(|name| linked.contains_key(*name)).collect();
    assert_eq!(second, Vec::<&str>::new());
}
