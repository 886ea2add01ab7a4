//! `/client.js`: the modules of `pages/client/`, joined into one.
//!
//! The sources are native modules of one idea each. They are served as one file for two reasons: while a farm is upgraded, a
//! page could otherwise get parts of two releases from two front doors, and a proxy has one path to let through.
//!
//! Joining needs no parser, because the sources keep to a form that a test checks: an import is one line, names are unique among all
//! parts, and only `index.js` says what is exported.

use std::sync::LazyLock;

/// The parts, each after those that it uses.
const PARTS: [&str; 6] = [
    include_str!("../../pages/client/errors.js"),
    include_str!("../../pages/client/progress.js"),
    include_str!("../../pages/client/call.js"),
    include_str!("../../pages/client/spawn.js"),
    include_str!("../../pages/client/live.js"),
    include_str!("../../pages/client/mount.js"),
];

/// What the library is, and what it exports.
const INDEX: &str = include_str!("../../pages/client/index.js");

/// The whole file.
pub(super) static CLIENT: LazyLock<String> = LazyLock::new(|| {
    let (about, exports) = INDEX.split_once("*/\n").unwrap_or(("", INDEX));
    let mut joined = format!("{about}*/\n");
    for line in PARTS.iter().flat_map(|part| part.lines().chain([""])) {
        if !line.starts_with("import ") {
            joined.push_str(line.strip_prefix("export ").unwrap_or(line));
            joined.push('\n');
        }
    }
    for line in exports.lines() {
        let names = line.split_once(" from ").map_or(line, |(names, _)| names);
        joined.push_str(names);
        joined.push_str(if names.starts_with("export ") { ";\n" } else { "\n" });
    }
    joined
});

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names that a part declares at its top level.
    fn declared(part: &str) -> Vec<&str> {
        let lines = part.lines().map(|line| line.strip_prefix("export ").unwrap_or(line));
        let names = lines.filter_map(|line| {
            let line = line.strip_prefix("async ").unwrap_or(line);
            ["function ", "class ", "const ", "let "].iter().find_map(|word| line.strip_prefix(word))
        });
        names
            .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
            .collect()
    }

    #[test]
    fn the_parts_keep_to_the_form_that_joining_needs() {
        let mut seen = BTreeSet::new();
        for part in PARTS {
            assert!(part.starts_with("/**"), "every part says what it is about");
            for line in part.lines().filter(|line| line.starts_with("import ")) {
                assert!(
                    line.ends_with(".js';") && line.contains(" from './"),
                    "an import on one line: {line}"
                );
            }
            for name in declared(part) {
                assert!(seen.insert(name), "{name} is declared in two parts");
            }
        }
        assert!(seen.len() > 20, "{seen:?}");
    }

    #[test]
    fn the_joined_file_imports_nothing_and_exports_what_the_index_says() {
        let code: Vec<&str> = CLIENT.lines().filter(|line| !line.starts_with(" *")).collect();
        assert!(
            !code.iter().any(|line| line.starts_with("import ") || line.contains(" from '")),
            "{code:#?}"
        );
        let exports: Vec<&&str> = code.iter().filter(|line| line.starts_with("export")).collect();
        assert_eq!(exports.len(), INDEX.lines().filter(|line| line.starts_with("export")).count());
        for name in ["spawn", "stop", "live", "Live", "mount", "ProblemError", "DeadlineError"] {
            let exported = |line: &&&str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == name);
            assert!(exports.iter().any(exported), "{name} is not exported: {exports:?}");
        }
    }
}
