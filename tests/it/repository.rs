//! The repository's own files, for tests of the rules it promises itself.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file that is or would be under version control, with its path from the root.
pub(crate) fn files() -> Vec<(String, PathBuf)> {
    fn walk(root: &Path, directory: &Path, found: &mut Vec<(String, PathBuf)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "target" || name == ".git" {
                continue;
            }
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push((path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), path));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &root(), &mut found);
    assert!(found.len() > 50, "{found:?}");
    found
}

/// Every hand-written Rust file, with its path from the root and its text.
pub(crate) fn sources() -> Vec<(String, String)> {
    let files = files().into_iter().filter(|(name, _)| name.ends_with(".rs") && !name.contains("/gen/"));
    files.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect()
}

/// The text of a file, by its path from the root.
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
