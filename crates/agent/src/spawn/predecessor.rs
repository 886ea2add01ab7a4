//! What an earlier spawn with the same user may have left for the next one: processes, which are ended, and files in the directories
//! that every user may write to, which are deleted. Only for users that are one spawn's at a time, see [`crate::users::SpawnUsers::Each`].
//!
//! Both are bounded in time, and the deletion also in stack and open files, whatever a spawn that was taken over has made. A failure
//! is an error: a spawn must not start beside what another one has left.
//!
//! Files that it made elsewhere (below a directory of another user that is open to all, in a shared `--workspace-dir`) stay, and so do
//! System V shared memory and message queues.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use super::tree;
use crate::users::user::Ids;
use crate::{procfs, reaper};

/// Every user may make files in them, and remove only its own.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// How long processes may take to end, and files to be deleted. Together less than [`crate::supervision::start::START_TIMEOUT`].
const TIMEOUT: Duration = Duration::from_secs(1);

/// Ends all processes of a user; blocks until they have ended.
///
/// # Errors
/// One that runs on.
pub(crate) fn end_processes(user: Ids) -> Result<(), u32> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        // A process that forks in a loop outruns a look at /proc, but not this.
        signal_all(user, deadline);
        let left: Vec<u32> = procfs::all().filter(|pid| is_of(*pid, user.uid)).collect();
        let Some(one) = left.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(*one);
        }
        for pid in left {
            end(pid, user.uid, deadline);
        }
    }
}

/// Ends one process of a user; blocks until it has ended, and returns whether it has.
pub(crate) fn end_process(pid: u32, uid: u32) -> bool {
    end(pid, uid, Instant::now() + TIMEOUT);
    !is_of(pid, uid)
}

/// Kills all processes of a user at once: the kernel lets none of them fork meanwhile. Only a process that runs as the user can
/// ask for that without hitting others, so it takes a helper, which the user's processes may stop or end. The caller looks
/// at what is left and repeats it.
fn signal_all(user: Ids, deadline: Instant) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "kill -KILL -1"]).env_clear().current_dir("/").uid(user.uid).gid(user.gid);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let starting = reaper::Starting::announce();
    match command.spawn() {
        Ok(helper) => {
            let pid = helper.id();
            starting.started(pid);
            wait_for(helper, deadline);
            reaper::reaped(pid);
        }
        // At its limit of processes the user can start none; the others are ended one by one.
        Err(error) => {
            tracing::debug!(%error, uid = user.uid, "failed to end all processes of a user at once")
        }
    }
}

fn wait_for(mut helper: Child, deadline: Instant) {
    let held = i32::try_from(helper.id()).ok().and_then(Pid::from_raw);
    if let Some(held) = held.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
        wait_until_ended(held, deadline);
    }
    // It has ended by itself, or was stopped.
    helper.kill().ok();
    if let Err(error) = helper.wait() {
        tracing::debug!(%error, "failed to wait for a helper");
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
    wait_until_ended(held, deadline);
}

fn wait_until_ended(process: impl AsFd, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    if let Ok(timeout) = Timespec::try_from(left) {
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)).ok();
    }
}

/// Something that is still there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Where, and why.
    pub(crate) why: String,
    /// Whether only time ran out, so that another call may do it.
    pub(crate) may_go: bool,
}

/// Deletes what a user without processes has in the shared directories.
///
/// # Errors
/// The first path that could not be deleted, or that time ran out in, and why.
pub(crate) fn delete_files(uid: u32) -> Result<(), Left> {
    let deadline = Instant::now() + TIMEOUT;
    SHARED.iter().try_for_each(|dir| delete_files_in(Path::new(dir), uid, deadline))
}

fn delete_files_in(dir: &Path, uid: u32, deadline: Instant) -> Result<(), Left> {
    let failed = |doing: &str, path: &Path, error: &io::Error| Left {
        why: format!("failed to {doing} {}: {error}", path.display()),
        may_go: error.kind() == io::ErrorKind::TimedOut,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", dir, &error)),
    };
    for entry in entries {
        if Instant::now() >= deadline {
            let why = format!("{} has too many files to be looked through in time", dir.display());
            return Err(Left { why, may_go: true });
        }
        let entry = entry.map_err(|error| failed("list", dir, &error))?;
        // Gone meanwhile.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.uid() != uid {
            continue;
        }
        let path = entry.path();
        // Neither follows a link.
        let deleted = if meta.is_dir() { tree::delete(&path, uid, deadline) } else { fs::remove_file(&path) };
        match deleted {
            Ok(()) => {
                tracing::debug!(path = %path.display(), uid, "a file that an earlier spawn had left behind was deleted")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("delete", &path, &error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    /// No other test's, and no user's, container's or service's: systemd gives those up to 1879048191
    /// (<https://systemd.io/UIDS-GIDS/>).
    const USER: u32 = 1_910_061_234;
    const IDS: Ids = Ids { uid: USER, gid: USER };

    #[test]
    fn processes_and_files_of_a_user_go_and_those_of_others_stay() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let sleep = |uid| {
            let mut command = Command::new("sleep");
            // Nothing shows whose it is but its user.
            command.arg("600").env_clear().uid(uid).gid(uid).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let (mut left, mut other) = (sleep(USER), sleep(USER + 1));
        assert_eq!(end_processes(IDS), Ok(()));
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
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(delete_files_in(dir.path(), USER, later), Ok(()));
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["kept", "others"]);
        assert!(at("kept/file").exists());
    }

    #[test]
    fn a_process_that_forks_in_a_loop_is_ended() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let user = Ids { uid: USER + 2, gid: USER + 2 };
        let script = "import os\nwhile True:\n  if os.fork() > 0: os._exit(0)";
        let mut command = Command::new("python3");
        command.args(["-c", script]).current_dir("/").uid(user.uid).gid(user.gid);
        let mut first = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It has forked, and goes on as its descendants.
        assert!(first.wait().unwrap().success());
        assert_eq!(end_processes(user), Ok(()));
        // What runs on would be found by one of many looks.
        for _ in 0..50 {
            assert_eq!(procfs::all().find(|pid| is_of(*pid, user.uid)), None);
        }
    }

    #[test]
    fn files_that_cannot_be_deleted_in_time_are_an_error_with_their_path() {
        let dir = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        fs::create_dir_all(dir.path().join("kept/inner")).unwrap();
        let error = delete_files_in(dir.path(), own, Instant::now()).unwrap_err();
        assert!(error.may_go && error.why.contains(&dir.path().display().to_string()), "{error:?}");
        assert!(dir.path().join("kept/inner").exists());
    }
}
