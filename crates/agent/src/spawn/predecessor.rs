//! What an earlier spawn with the same user may have left for the next one: processes, which are ended, and files in the directories
//! that every user may write to, which are deleted. Only for users that are one spawn's at a time, see [`super::users::SpawnUsers::Each`].
//!
//! Files that it made elsewhere (below a directory of another user that is open to all, in a shared `--workspace-dir`) stay, and so do
//! System V shared memory and message queues.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use crate::procfs;

/// Every user may make files in them, and remove only its own.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// How long processes may take to end. They may start others meanwhile.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Ends all processes of a user; blocks until they have ended.
///
/// # Errors
/// One that runs on.
pub(crate) fn end_processes(uid: u32) -> Result<(), u32> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left: Vec<u32> = procfs::all().filter(|pid| is_of(*pid, uid)).collect();
        let Some(one) = left.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(*one);
        }
        for pid in left {
            end(pid, uid, deadline);
        }
    }
}

/// Whether a process runs as this user, in whatever sense.
fn is_of(pid: u32, uid: u32) -> bool {
    procfs::uids(pid).is_some_and(|uids| uids.contains(&uid))
        && procfs::stat(pid).is_some_and(|stat| !stat.has_ended())
}

fn end(pid: u32, uid: u32, deadline: Instant) {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(held) = pidfd_open(number, PidfdFlags::empty()) else { return };
    // Only now that its number is held can it be seen whose it is.
    if !is_of(pid, uid) {
        return;
    }
    match pidfd_send_signal(&held, Signal::KILL) {
        Ok(()) => tracing::info!(pid, uid, "a process that an earlier spawn had left behind was ended"),
        Err(error) => tracing::warn!(%error, pid, uid, "failed to end what an earlier spawn had left behind"),
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if let Ok(timeout) = Timespec::try_from(left) {
        poll(&mut [PollFd::new(&held, PollFlags::IN)], Some(&timeout)).ok();
    }
}

/// Deletes what a user without processes has in the shared directories.
pub(crate) fn delete_files(uid: u32) {
    for dir in SHARED {
        delete_files_in(Path::new(dir), uid);
    }
}

fn delete_files_in(dir: &Path, uid: u32) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.uid() != uid {
            continue;
        }
        let path = entry.path();
        // Neither follows a link.
        let deleted = if meta.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match deleted {
            Ok(()) => {
                tracing::debug!(path = %path.display(), uid, "a file that an earlier spawn had left behind was deleted")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), uid, "failed to delete what an earlier spawn had left behind");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Nobody else's in any test.
    const USER: u32 = 61_234;

    #[test]
    fn processes_and_files_of_a_user_go_and_those_of_others_stay() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let sleep = |uid| {
            let mut command = Command::new("sleep");
            // Nothing tells whose it is but its user.
            command.arg("600").env_clear().uid(uid).gid(uid).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let (mut left, mut other) = (sleep(USER), sleep(USER + 1));
        assert_eq!(end_processes(USER), Ok(()));
        assert!(left.wait().unwrap().code().is_none(), "killed");
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();

        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("others"), "").unwrap();
        fs::create_dir(at("kept")).unwrap();
        fs::write(at("kept/file"), "").unwrap();
        fs::create_dir_all(at("dir/inner")).unwrap();
        fs::write(at("dir/inner/file"), "").unwrap();
        fs::write(at("file"), "").unwrap();
        symlink(at("kept"), at("dir/link")).unwrap();
        symlink(at("others"), at("link")).unwrap();
        for name in ["dir", "file"] {
            chown(at(name), Some(USER), Some(USER)).unwrap();
        }
        std::os::unix::fs::lchown(at("link"), Some(USER), Some(USER)).unwrap();
        delete_files_in(dir.path(), USER);
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["kept", "others"]);
        assert!(at("kept/file").exists());
    }
}
