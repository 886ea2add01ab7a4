//! Fuzzing on stable Rust: a test holds a parser against every file of a corpus, and against thousands of inputs made from these files.
//!
//! A corpus is a directory below its crate, `corpus/NAME`, whose files are inputs as they come, or as they once made a parser panic. Changes
//! are drawn from a seed, so a test does the same each time: `FUZZ_RUNS` (2000) inputs from `FUZZ_SEED` (1). An input that makes the check
//! panic is written into the corpus as `crash-…`; it stays there once it is mended.
//!
//! Unlike a fuzzer that is led by coverage this one knows nothing of the code. It needs no nightly compiler and no instrumented build, so it
//! runs with all other tests.

mod change;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// Inputs that are made where nothing is said.
const RUNS: u64 = 2000;

/// Holds `check` against the files of a corpus and against inputs that are made from them. `words` are pieces that the format knows.
///
/// ```no_run
/// fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/numbers"), &["-", "e"], |bytes| {
///     let text = String::from_utf8_lossy(bytes);
///     text.parse::<f64>().ok();
/// });
/// ```
///
/// # Panics
/// When the corpus is empty or cannot be read, and when `check` panics.
pub fn fuzz(corpus: &str, words: &[&str], check: impl Fn(&[u8])) {
    let corpus = Path::new(corpus);
    let files = files(corpus);
    assert!(!files.is_empty(), "{} has no inputs", corpus.display());
    for (path, bytes) in &files {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(bytes))) {
            report(&format!("the input {} makes the check panic", path.display()));
            resume_unwind(panic);
        }
    }
    let inputs: Vec<Vec<u8>> = files.into_iter().map(|(_, bytes)| bytes).collect();
    let seed = setting("FUZZ_SEED").unwrap_or(1);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..setting("FUZZ_RUNS").unwrap_or(RUNS) {
        let input = change::changed(&mut random, &inputs, words);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&input))) {
            let path = corpus.join(format!("crash-{:016x}", hash(&input)));
            let kept = fs::write(&path, &input);
            report(&format!("an input makes the check panic, kept as {}: {kept:?}", path.display()));
            resume_unwind(panic);
        }
    }
}

/// The files of a corpus, by name.
fn files(corpus: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[expect(clippy::print_stderr, reason = "it is the output of a test that fails")]
fn report(what: &str) {
    eprintln!("{what}");
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
