//! Deletes a directory that a spawn has made, however deep or wide it is.
//!
//! Nothing recurses: the directories inside of a directory that is not empty are moved up, to right below the top. So there are never more
//! than two directories open, and the stack does not grow. A link is never followed, and a directory that another process moves
//! meanwhile leads to an error at the worst.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, fstat, openat, renameat_with, rmdir, unlinkat,
};
use rustix::io::Errno;
use tokio::time::Instant;

/// Deletes a directory of this user with all that is in it. Blocks until `deadline` at the longest.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when there was more than could be deleted in time: what was deleted stays so, and another call goes on.
/// Otherwise what the file system says.
pub(super) fn delete(path: &Path, uid: u32, deadline: Instant) -> io::Result<()> {
    let top = open(CWD, path)?;
    if fstat(&top)?.st_uid != uid {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it has become another user's"));
    }
    let mut moved = 0;
    loop {
        let mut is_empty = true;
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_itself_or_parent(name) {
                continue;
            }
            is_empty = false;
            in_time(deadline)?;
            if !delete_simple(&top, name)? {
                let inner = open(&top, name)?;
                empty(&inner, &top, &mut moved, deadline)?;
                // One that moved up may have gone below it only with another process at work: then the next round sees it again.
                delete_simple(&top, name)?;
            }
        }
        if is_empty {
            return Ok(rmdir(path)?);
        }
    }
}

/// Deletes what is in `dir`, and moves the directories in it that are not empty to right below `top`.
fn empty(dir: &OwnedFd, top: &OwnedFd, moved: &mut u64, deadline: Instant) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_itself_or_parent(name) {
            continue;
        }
        in_time(deadline)?;
        if !delete_simple(dir, name)? {
            move_up(dir, name, top, moved, deadline)?;
        }
    }
    Ok(())
}

fn move_up(dir: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64, deadline: Instant) -> io::Result<()> {
    loop {
        in_time(deadline)?;
        *moved += 1;
        match renameat_with(dir, name, top, format!("moved-{moved}"), RenameFlags::NOREPLACE) {
            // Its owner had the same name in mind.
            Err(Errno::EXIST) => {}
            moved => return Ok(moved?),
        }
    }
}

/// Deletes what is no directory or an empty one; `false` for one that is not empty.
fn delete_simple(dir: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let deleted = match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(dir, name, AtFlags::REMOVEDIR),
        deleted => deleted,
    };
    match deleted {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

fn is_itself_or_parent(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn in_time(deadline: Instant) -> io::Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "there is more in it than can be deleted in time"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use rustix::fs::mkdirat;

    use super::*;

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(120)
    }

    #[test]
    fn a_tree_deeper_than_any_stack_is_deleted_on_a_small_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep");
        fs::create_dir(&path).unwrap();
        let mut at = open(CWD, &path).unwrap();
        for _ in 0..15_000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open(&at, "d").unwrap();
        }
        drop(at);
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let deleted = thread.spawn(move || delete(&path, own(), later())).unwrap().join().unwrap();
        deleted.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_that_are_taken_and_links_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, path) = (dir.path().join("kept"), dir.path().join("tree"));
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        for name in ["a/b/c", "a/moved-2/x", "moved-1/y", "moved-3"] {
            fs::create_dir_all(path.join(name)).unwrap();
            fs::write(path.join(name).join("file"), "").unwrap();
            std::os::unix::fs::symlink(&kept, path.join(name).join("link")).unwrap();
        }
        delete(&path, own(), later()).unwrap();
        assert!(!path.exists() && kept.join("file").exists());
    }

    #[test]
    fn a_directory_of_another_user_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let error = delete(dir.path(), own() + 1, later()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(dir.path().exists());
    }
}
