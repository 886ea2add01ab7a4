//! The modules of every crate form layers: no file depends, through any number of others, on itself.
//!
//! A file depends on another one when it names something of it, in a `use` or by a path: `crate::a::b`, `super::b`, `self::b`,
//! or `b::c` for a child module `b`. A name that a module only re-exports counts for the file that defines it. Declarations (`mod b;`) and
//! what is compiled for tests alone do not count.
//!
//! The sources are read as tokens ([`proc_macro2`]), not as text and not as a syntax tree. Text matching trips over comments, strings and
//! brace lists. A syntax tree (`syn`) leaves the arguments of macros as tokens, and paths in `tracing::info!(…)` or `select! { … }` would
//! be missed. A path looks the same wherever it stands, so its tokens are all that is needed.

mod modules;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use self::modules::{Graph, graph};
use super::repository;

/// The cycles of a graph: sets of files that depend on each other, with the paths that make them.
fn cycles(graph: &Graph) -> Vec<String> {
    let reach = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.to_owned()];
        while let Some(file) = next.pop() {
            for to in graph.get(&file).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|file| (file, reach(file))).collect();
    let mut told = BTreeSet::new();
    let mut cycles = Vec::new();
    for (file, others) in &reached {
        if !others.contains(*file) || told.contains(*file) {
            continue;
        }
        let together: BTreeSet<&String> = others
            .iter()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(*file)))
            .collect();
        told.extend(together.iter().copied());
        let mut text = format!("cycle of {} files", together.len());
        for from in &together {
            for (to, paths) in &graph[*from] {
                if together.contains(to) {
                    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
                    text += &format!("\n    {from} -> {to}: {}", paths.join(", "));
                }
            }
        }
        cycles.push(text);
    }
    cycles
}

/// The files of a crate, by their paths below its `src`.
fn crate_sources() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut crates: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (name, text) in repository::sources() {
        let below = name.strip_prefix("crates/").and_then(|rest| rest.split_once("/src/"));
        if let Some((name, file)) = below {
            crates.entry(name.to_owned()).or_default().insert(file.to_owned(), text);
        }
    }
    assert!(crates.len() > 5, "{:?}", crates.keys());
    crates
}

#[test]
fn no_file_depends_on_itself_through_others() {
    let mut bad = Vec::new();
    for (name, files) in crate_sources() {
        for root in ["lib.rs", "main.rs"].into_iter().filter(|root| files.contains_key(*root)) {
            let graph = graph(root, &files);
            bad.extend(cycles(&graph).into_iter().map(|cycle| format!("crates/{name}/src: {cycle}")));
        }
    }
    assert!(bad.is_empty(), "move what both sides need below them:\n{}", bad.join("\n"));
}

/// The cycles of made-up sources whose root is `lib.rs`.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    cycles(&graph("lib.rs", &files))
}

#[test]
fn a_cycle_is_found_however_it_is_written() {
    for (a, b) in [
        ("use crate::b::B;", "use crate::a::A;"),
        ("use crate::{b::{self, B}, c};", "use super::a::A;"),
        ("fn f() { let _ = crate::b::B; }", "use super::a;"),
        ("fn f() { tracing::info!(x = ?crate::b::B, \"text\") }", "fn f(_: super::a::A) {}"),
        ("use crate::b as other;", "use crate::a::*;"),
        ("mod inner { use super::super::b::B; }", "use crate::a::inner;"),
        ("use crate::b; fn f() { b::f() }", "use crate::c::A;"),
    ] {
        let a = format!("pub struct A; {a}");
        let b = format!("pub struct B; {b}");
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", &a),
            ("b.rs", &b),
            ("c.rs", "pub use crate::a::A;"),
        ];
        let found = found(&files);
        assert_eq!(found.len(), 1, "{a} {b}: {found:?}");
        assert!(found[0].contains("a.rs -> b.rs: crate::b"), "{found:?}");
    }
}

#[test]
fn a_parent_and_a_child_that_name_each_other_are_a_cycle() {
    let found = found(&[
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod b; pub struct A(b::B);"),
        ("a/b.rs", "pub struct B; use super::A;"),
    ]);
    assert_eq!(
        found,
        ["cycle of 2 files\n    a/b.rs -> a/mod.rs: crate::a::A\n    a/mod.rs -> a/b.rs: crate::a::b::B"]
    );
}

#[test]
fn a_long_cycle_is_one_cycle_and_what_hangs_on_it_is_not_part_of_it() {
    let found = found(&[
        ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::c::C; pub struct B;"),
        ("c.rs", "use crate::a::A; use crate::d::D; pub struct C;"),
        ("d.rs", "pub struct D;"),
        ("e.rs", "use crate::a::A;"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("cycle of 3 files") && !found[0].contains("d.rs"), "{found:?}");
}

#[test]
fn layers_declarations_tests_text_and_re_exports_make_no_cycle() {
    let found = found(&[
        ("lib.rs", "mod a; mod b; pub use a::A; #[cfg(test)] mod t;"),
        (
            "a.rs",
            "mod inner; pub use inner::Inner; pub struct A; // crate::b::B\n const S: &str = \"crate::b::B\";",
        ),
        ("a/inner.rs", "pub struct Inner;"),
        // The parent only re-exports what its sibling defines.
        (
            "b.rs",
            "use crate::a::Inner; use crate::A; pub struct B; #[cfg(test)] mod tests { use super::*; use crate::t::T; }",
        ),
        ("t.rs", "use crate::b::B; pub struct T;"),
        ("unused.rs", "use crate::b::B;"),
    ]);
    assert_eq!(found, Vec::<String>::new());
}
