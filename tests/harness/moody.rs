//! A server whose mood a test sets: one file says what every start from now on does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::binaries::binaries;

/// What a start does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It serves.
    Well,
    /// It ends at once as with an expired licence: exit code 6.
    ExitsAtOnce,
    /// It runs and never says that it is ready.
    NeverReady,
    /// It says that it is ready and ends of a signal a second later.
    DiesSoon,
}

/// An executable that does what its mood says.
#[derive(Debug)]
pub struct Moody {
    executable: PathBuf,
    mood: PathBuf,
}

impl Moody {
    /// Makes one in this directory; it is well.
    pub fn new(directory: &Path) -> Self {
        let (executable, mood) = (directory.join("moody"), directory.join("mood"));
        let text = format!(
            "#!/bin/sh\n\
             read -r mood <'{}'\n\
             case $mood in\n\
             exits) echo 'License: expired'; exit 6;;\n\
             never) exec sleep 600;;\n\
             dies) SC_SIM_CRASH_AFTER_MS=1000 SC_SIM_CRASH_SIGNAL=SEGV exec '{sim}' \"$@\";;\n\
             *) exec '{sim}' \"$@\";;\n\
             esac\n",
            mood.display(),
            sim = binaries().simulator.display(),
        );
        fs::write(&executable, text).expect("a file can be written");
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let moody = Self { executable, mood };
        moody.becomes(Mood::Well);
        moody
    }

    /// From now on every start does this.
    pub fn becomes(&self, mood: Mood) {
        let word = match mood {
            Mood::Well => "well",
            Mood::ExitsAtOnce => "exits",
            Mood::NeverReady => "never",
            Mood::DiesSoon => "dies",
        };
        let fresh = self.mood.with_extension("new");
        fs::write(&fresh, format!("{word}\n")).expect("a file can be written");
        fs::rename(fresh, &self.mood).expect("it is ours");
    }

    /// What `--executable` wants.
    pub fn executable(&self) -> &Path {
        &self.executable
    }

    /// Takes the executable away, or puts it back.
    pub fn is_there(&self, there: bool) {
        let away = self.executable.with_extension("away");
        let (from, to) = if there { (&away, &self.executable) } else { (&self.executable, &away) };
        fs::rename(from, to).expect("it was where it was left");
    }
}
