//! Tests that this user or this machine cannot make say so.

/// Tells on standard error that a test is left out, and why.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
pub fn skipped(what: &str, why: &str) {
    eprintln!("skipped: {what}: {why}");
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
