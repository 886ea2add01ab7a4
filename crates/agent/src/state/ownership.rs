//! Whose a state directory is: what stands in it is believed, and followed with the agent's rights, so no one else may change it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::users::SpawnUsers;

/// Says why a state directory that is there already cannot be relied on.
///
/// # Errors
/// It, or its `logs`, is another user's, or can be changed by others; or spawns could put another directory in its place.
pub(crate) fn check(dir: &Path, users: Option<&SpawnUsers>) -> Result<(), String> {
    for path in [dir.to_owned(), dir.join("logs")] {
        match fs::metadata(&path) {
            Ok(meta) => check_own(&path, &meta, users)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The attempt to use it says it better.
            Err(_) => return Ok(()),
        }
    }
    let Some(users) = users else { return Ok(()) };
    for above in dir.ancestors().skip(1) {
        let Ok(meta) = fs::metadata(above) else { continue };
        let sticky = meta.mode() & 0o1000 != 0;
        if users.can_write(&meta) && !sticky {
            let (path, mode) = (above.display(), meta.mode() & 0o7777);
            return Err(format!(
                "must be where spawns, {users} (--spawn-user), cannot put another directory in its place, but they can write to \
                 {path} (mode {mode:04o}, owner {}:{})",
                meta.uid(),
                meta.gid()
            ));
        }
    }
    Ok(())
}

fn check_own(path: &Path, meta: &Metadata, users: Option<&SpawnUsers>) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    let (shown, mode, owner) = (path.display(), meta.mode() & 0o7777, meta.uid());
    if owner != own && owner != 0 {
        return Err(format!(
            "must be owned by the agent's user, {own}, or root, but {shown} is owned by user {owner}; chown -R it, or name another"
        ));
    }
    if mode & 0o022 != 0 || users.is_some_and(|users| users.can_write(meta)) {
        return Err(format!(
            "must be writable by the agent's user alone, but {shown} has mode {mode:04o} and is owned by {owner}:{}; chmod 0700 it, \
             or name another",
            meta.gid()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_directory_that_others_can_change_is_refused_with_its_mode() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("state");
        let set = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(check(&dir, None), Ok(()), "it will be made");
        fs::create_dir_all(dir.join("logs")).unwrap();
        for (mode, good) in [(0o700, true), (0o755, true), (0o770, false), (0o702, false), (0o1777, false)] {
            set(&dir, mode);
            let checked = check(&dir, None);
            assert_eq!(checked.is_ok(), good, "{mode:o}: {checked:?}");
            set(&dir, 0o755);
            set(&dir.join("logs"), mode);
            let checked = check(&dir, None);
            assert_eq!(checked.is_ok(), good, "logs {mode:o}: {checked:?}");
            assert!(good || checked.unwrap_err().contains(&format!("{mode:04o}")));
            set(&dir.join("logs"), 0o700);
        }
        let users = SpawnUsers::Each((54_000..=54_010).into());
        assert_eq!(check(&dir, Some(&users)), Ok(()));
        set(outer.path(), 0o777);
        assert_eq!(check(&dir, None), Ok(()));
        assert!(check(&dir, Some(&users)).unwrap_err().contains("in its place"));
        set(outer.path(), 0o1777);
        assert_eq!(check(&dir, Some(&users)), Ok(()), "only its owner can move it");
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(54_321), None).unwrap();
        let why = check(dir.path(), None).unwrap_err();
        assert!(why.contains("owned by user 54321"), "{why}");
    }
}
