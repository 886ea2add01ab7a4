//! Running the command.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, SystemTime};

/// The command as it was built.
pub(crate) fn hatchery(args: &[&str]) -> Command {
    copy_of_hatchery(Path::new(env!("CARGO_BIN_EXE_hatchery")), args)
}

/// A copy of it somewhere else, with an environment that holds no setting of whoever runs the tests.
pub(crate) fn copy_of_hatchery(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HATCHERY_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a finished command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Ran {
    hatchery(args).output().unwrap().into()
}

/// Runs it to its end against this server.
pub(crate) fn run_at(server: &str, args: &[&str]) -> Ran {
    hatchery(args).env("HATCHERY_SERVER", server).output().unwrap().into()
}

/// Sends a signal by its name.
pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name}");
}

/// Waits until something is so, for as long as anything here may take.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = SystemTime::now() + Duration::from_secs(30);
    while !so() {
        assert!(SystemTime::now() < deadline, "waited in vain: {what}");
        // A look every few milliseconds; the wait itself is for the condition.
        park_timeout(Duration::from_millis(5));
    }
}
