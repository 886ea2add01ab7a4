//! Files that are there as a whole or not at all: written beside their place, then renamed. Keys are readable by their owner alone. A
//! file that was there before is replaced in one step.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::Failure;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    None,
    Owner,
}

/// Writes a file, in place of the one before.
pub(super) fn write(path: &Path, text: &str, secrecy: Secrecy) -> Result<(), Failure> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let written = || -> io::Result<()> {
        // What an earlier run left may have other permissions.
        if let Err(error) = fs::remove_file(new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mode = match secrecy {
            Secrecy::None => 0o644,
            Secrecy::Owner => 0o600,
        };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, path)
    };
    written().map_err(|e| at(path, e))
}

/// What a file is, in an error.
pub(super) fn at(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("{}: {why}", path.display()))
}
