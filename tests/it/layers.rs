//! The modules of every crate form layers: no file depends, through any number of others, on itself, and neither does a module with all
//! that is below it. Where the root of a crate has a table of its layers, no module names one of a layer above its own.
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
        let mut text = format!("cycle of {}", together.len());
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

/// For each directory the graph of what is in it: a module counts with all that is below it, in whatever files. `a.rs` and `a/` are one.
fn levels(graph: &Graph) -> BTreeMap<String, Graph> {
    let mut levels: BTreeMap<String, Graph> = BTreeMap::new();
    for (from, edges) in graph {
        for (to, paths) in edges {
            // The two files are of two modules of the last directory that has both, and of one module in those above it.
            let parts = from.split('/').zip(to.split('/'));
            let common: Vec<&str> = parts.take_while(|(a, b)| a == b).map(|(part, _)| part).collect();
            let child = |file: &str| {
                file.split('/').nth(common.len()).map(|part| part.trim_end_matches(".rs").to_owned())
            };
            let (Some(from), Some(to)) = (child(from), child(to)) else { continue };
            if from != to {
                let level = levels.entry(common.join("/")).or_default();
                level.entry(from).or_default().entry(to).or_default().extend(paths.iter().cloned());
            }
        }
    }
    levels
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

/// What is wrong with the modules of a crate as the table in the documentation of its root has them: `//! | layer | modules |`, a row a layer,
/// the top one first.
fn against_the_table(root: &str, modules: &Graph) -> Vec<String> {
    let lines = root.lines().map_while(|line| line.strip_prefix("//!"));
    let rows = lines.skip_while(|line| !line.contains("| layer | modules |")).skip(2);
    let rows: Vec<&str> = rows.map_while(|line| line.trim_start().strip_prefix('|')).collect();
    let named = |row: &str, module: &str| row.split('`').skip(1).step_by(2).any(|name| name == module);
    let mut layers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut bad = Vec::new();
    let all: BTreeSet<&String> =
        modules.iter().flat_map(|(from, edges)| edges.keys().chain([from])).collect();
    for module in all.into_iter().map(String::as_str).filter(|module| !matches!(*module, "lib" | "main")) {
        let of: Vec<usize> = (0..rows.len()).filter(|row| named(rows[*row], module)).collect();
        match of[..] {
            [layer] => drop(layers.insert(module, layer)),
            _ => bad
                .push(format!("{module} must stand in one row of the table of layers, not in {}", of.len())),
        }
    }
    for (from, edges) in modules {
        for (to, paths) in edges {
            if let (Some(upper), Some(lower)) = (layers.get(to.as_str()), layers.get(from.as_str()))
                && upper < lower
            {
                bad.push(format!("{from} names {to}, which is of a layer above its own: {paths:?}"));
            }
        }
    }
    bad
}

/// What `check` finds in the graph of each crate, with the text of its root.
fn of_every_crate(check: impl Fn(&str, &Graph) -> Vec<String>) -> Vec<String> {
    let mut bad = Vec::new();
    for (name, files) in crate_sources() {
        for root in ["lib.rs", "main.rs"].into_iter().filter(|root| files.contains_key(*root)) {
            let found = check(&files[root], &graph(root, &files));
            bad.extend(found.into_iter().map(|what| format!("crates/{name}/src: {what}")));
        }
    }
    bad
}

#[test]
fn no_file_depends_on_itself_through_others() {
    let bad = of_every_crate(|_, graph| cycles(graph));
    assert!(bad.is_empty(), "move what both sides need below them:\n{}", bad.join("\n"));
}

#[test]
fn no_module_depends_with_all_that_is_below_it_on_itself_through_others() {
    let bad = of_every_crate(|_, graph| levels(graph).values().flat_map(cycles).collect());
    assert!(bad.is_empty(), "move what both sides need below them:\n{}", bad.join("\n"));
}

#[test]
fn no_module_names_one_of_a_layer_above_its_own() {
    let tables = std::cell::Cell::new(0);
    let bad = of_every_crate(|root, graph| {
        if !root.contains("//! | layer | modules |") {
            return Vec::new();
        }
        tables.set(tables.get() + 1);
        against_the_table(root, &levels(graph)[""])
    });
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(tables.get() >= 3, "the front door, the agent and the command have a table: {tables:?}");
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
        ["cycle of 2\n    a/b.rs -> a/mod.rs: crate::a::A\n    a/mod.rs -> a/b.rs: crate::a::b::B"]
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
    assert!(found[0].starts_with("cycle of 3") && !found[0].contains("d.rs"), "{found:?}");
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

#[test]
fn modules_whose_parts_name_each_other_are_a_cycle_though_their_files_are_none() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod inner; mod outer;"),
        ("a/inner.rs", "pub struct Inner;"),
        ("a/outer.rs", "use crate::b::B;"),
        ("b.rs", "mod below; pub struct B(crate::a::inner::Inner);"),
        ("b/below.rs", "pub struct Below;"),
    ];
    assert_eq!(found(&files), Vec::<String>::new());
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let found = cycles(&levels(&graph("lib.rs", &files))[""]);
    assert_eq!(
        found,
        ["cycle of 2\n    a -> b: crate::b::B\n    b -> a: crate::a::inner::Inner"],
        "a and b name each other"
    );
}

#[test]
fn a_module_that_names_a_higher_one_or_stands_in_no_row_is_reported() {
    let graph = |edges: &[(&str, &[&str])]| -> Graph {
        let edges = edges.iter().map(|(from, to)| {
            let to = to.iter().map(|to| ((*to).to_owned(), BTreeSet::from([format!("crate::{to}::X")])));
            ((*from).to_owned(), to.collect())
        });
        edges.collect()
    };
    let root = "//! The root.\n//!\n//! | layer | modules |\n//! | --- | --- |\n//! | above | [`a`] runs `POST /x` |\n//! | below | `b`, `c` (`B`) |\n//!\n//! `d`";
    let none: &[&str] = &[];
    assert_eq!(against_the_table(root, &graph(&[("a", &["b"]), ("b", &["c"]), ("c", none)])), none);
    let bad = against_the_table(root, &graph(&[("a", none), ("b", &["a"]), ("d", none)]));
    assert_eq!(bad.len(), 2, "{bad:?}");
    assert!(bad[0].starts_with("d must stand in one row") && bad[1].starts_with("b names a,"), "{bad:?}");
}
