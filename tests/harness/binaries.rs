//! The programs under test, built once per test run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Set by whoever has just built the programs, as `cargo test --workspace` does: cargo chooses other features for them when
/// they are built alone, and building everything once more takes a minute.
const BUILT: &str = "HARNESS_BINARIES_ARE_BUILT";

/// Where the programs are.
#[derive(Debug)]
pub struct Binaries {
    /// Every role and every operator's command.
    pub hatchery: PathBuf,
    /// The stand-in for the licensed server.
    pub simulator: PathBuf,
}

/// Builds the programs in the profile and the target directory of the running test, unless they are fresh.
pub fn binaries() -> &'static Binaries {
    static FOUND: OnceLock<Binaries> = OnceLock::new();
    FOUND.get_or_init(build)
}

fn build() -> Binaries {
    // target/PROFILE/deps/it-HASH
    let this = env::current_exe().expect("the test is a file");
    let directory = this.ancestors().nth(2).expect("the test is in target/PROFILE/deps").to_owned();
    let target = directory.parent().expect("a profile has a directory of its own");
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    if env::var_os(BUILT).is_some() {
        return find(&directory);
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", "cli", "--package", "sc-sim", "--bins"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    find(&directory)
}

fn find(directory: &Path) -> Binaries {
    let built = |name| {
        let file = directory.join(name);
        assert!(file.is_file(), "{} is not built", file.display());
        file
    };
    Binaries { hatchery: built("hatchery"), simulator: built("ts3d-sc-sim") }
}
