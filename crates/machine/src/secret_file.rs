//! Secret files that every user of the machine can read: a warning in the log, never an error, since how a file is protected is the
//! operator's choice.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tracing::warn;

/// Logs a warning when every user of the machine can read a secret file. `flag` is the flag that named the file.
///
/// A file that its group can read is fine: that is how services are given files.
pub fn warn_if_readable_by_everyone(flag: &str, path: &Path) {
    if let Some(mode) = mode_if_readable_by_everyone(path) {
        warn!(flag, file = %path.display(), mode, "every user of this machine can read this secret file: chmod 0640");
    }
}

/// The mode as `chmod` takes it; `None` when not every user can read the file, or there is none.
fn mode_if_readable_by_everyone(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| format!("{:04o}", mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_every_user_can_read_is_known_by_its_mode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, readable) in [(0o600, None), (0o640, None), (0o644, Some("0644")), (0o604, Some("0604"))] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(mode_if_readable_by_everyone(file.path()).as_deref(), readable);
        }
        assert_eq!(mode_if_readable_by_everyone(Path::new("/nowhere/at/all")), None);
    }
}
