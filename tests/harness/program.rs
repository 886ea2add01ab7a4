//! Which program a role runs, and under what.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::binaries::binaries;
use crate::guard::MARK;

/// Names the directory that holds the programs of the release before this one (`tests/mixed-versions` builds them).
const PREVIOUS: &str = "HARNESS_PREVIOUS_BINARIES";

/// Which release of the programs a role runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// The one under test.
    #[default]
    Current,
    /// The one before it.
    Previous,
}

impl Release {
    /// The file of `hatchery`.
    fn hatchery(self) -> &'static Path {
        static FOUND: OnceLock<PathBuf> = OnceLock::new();
        match self {
            Self::Current => &binaries().hatchery,
            Self::Previous => FOUND.get_or_init(|| {
                let directory = std::env::var_os(PREVIOUS).unwrap_or_else(|| {
                    panic!(
                        "{PREVIOUS} must name the directory with the programs (tests/mixed-versions sets it)"
                    )
                });
                let file = PathBuf::from(directory).join("hatchery");
                assert!(file.is_file(), "{} is not built", file.display());
                file
            }),
        }
    }
}

/// How a role is started.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// Which release of it.
    pub release: Release,
    /// What it is started by: a program that becomes it or waits for it, with its arguments; nothing for most.
    pub under: Vec<String>,
    /// Its clock is wrong by so many seconds.
    pub clock: i64,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
}

impl Program {
    /// The command, in an environment that holds no setting of the caller of the tests.
    pub fn command(&self, mark: &Path) -> Command {
        let file = self.release.hatchery();
        let mut command = match self.under.split_first() {
            None => Command::new(file),
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(file);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if ["HATCHERY_", "OTEL_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env(MARK, mark).stdin(Stdio::null());
        command
    }
}
