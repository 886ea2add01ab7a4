//! Where the output of spawns goes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::farm::Agent;

impl Agent {
    /// The file that a spawn's output goes to, found by the spawn's id in its name.
    pub fn output_file(&self, id: &str) -> PathBuf {
        let mut found = files(&self.state_dir);
        found.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains(id)));
        let logs: Vec<&PathBuf> =
            found.iter().filter(|f| f.extension().is_some_and(|e| e == "log")).collect();
        match logs[..] {
            [file] => file.clone(),
            _ => panic!("one output file was expected for {id} among {found:?}"),
        }
    }
}

/// All files under a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}
