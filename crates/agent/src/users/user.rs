//! A user of this machine that spawns run as, where that is not who the agent runs as.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A process's user and group, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A user and a group of this machine. Spawns of another user than the agent's have no other groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnUser {
    /// As the command line had it.
    pub(super) given: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl fmt::Display for SpawnUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl SpawnUser {
    /// Finds `USER[:GROUP]`, names or numbers, in `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn resolve(given: &str) -> Result<Self, String> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::find(given, &read("/etc/passwd"), &read("/etc/group"))
    }

    fn find(given: &str, passwd: &str, groups: &str) -> Result<Self, String> {
        let (user, group) = match given.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (given, None),
        };
        if user.is_empty() || group.is_some_and(str::is_empty) {
            return Err(format!("expected USER or USER:GROUP, got {given:?}"));
        }
        let number = user.parse::<u32>().ok();
        // name:password:uid:gid:…
        let known = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            (*fields.first()? == user || number == Some(uid)).then_some((uid, gid))
        });
        let uid = known.map(|(uid, _)| uid).or(number).ok_or_else(|| {
            format!("it must name a user of /etc/passwd, which {user:?} is not; others are given as UID:GID")
        })?;
        let gid = match (group, known) {
            (Some(group), _) => find_group(group, groups)?,
            (None, Some((_, gid))) => gid,
            (None, None) => {
                return Err(format!("it must name a group too, {user}:GROUP: {user} is not in /etc/passwd"));
            }
        };
        Ok(Self { given: given.to_owned(), uid, gid })
    }

    /// What keeps this user from reading a file, or from listing and entering a directory, as far as its mode and those of
    /// the directories above show.
    pub(crate) fn shut_out_of(&self, path: &Path) -> Option<String> {
        self.kept_from(path, "read", |meta| if meta.is_dir() { 0o5 } else { 0o4 })
    }

    /// What keeps this user from running a file, in the same way.
    pub(crate) fn cannot_run(&self, path: &Path) -> Option<String> {
        self.kept_from(path, "run", |_| 0o1)
    }

    fn kept_from(&self, path: &Path, what: &str, wanted: impl Fn(&Metadata) -> u32) -> Option<String> {
        // From where the agent was started, if it does not begin at the root.
        let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        let closed = |at: &Path, meta: &Metadata, wanted: &str| {
            let (mode, owner, group) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
            format!("{self} cannot {wanted} {} (mode {mode:04o}, owner {owner}:{group})", at.display())
        };
        for directory in above {
            let Ok(meta) = std::fs::metadata(directory) else { return None };
            if !self.may(&meta, 0o1) {
                return Some(closed(directory, &meta, "enter"));
            }
        }
        // A missing file is another check's.
        let meta = std::fs::metadata(path).ok()?;
        (!self.may(&meta, wanted(&meta))).then(|| closed(path, &meta, what))
    }

    /// Whether it may do this, bits of `rwx`, with what has these modes.
    pub(super) fn may(&self, meta: &Metadata, wanted: u32) -> bool {
        let shift = match (meta.uid() == self.uid, meta.gid() == self.gid) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        self.uid == 0 || (meta.mode() >> shift) & wanted == wanted
    }
}

/// Finds a group, a name or a number, in `/etc/group`.
pub(super) fn group_of_this_machine(group: &str) -> Result<u32, String> {
    find_group(group, &std::fs::read_to_string("/etc/group").unwrap_or_default())
}

fn find_group(group: &str, groups: &str) -> Result<u32, String> {
    // name:password:gid:…
    let known = groups.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (*fields.first()? == group).then(|| fields.get(2)?.parse().ok()).flatten()
    });
    known.or_else(|| group.parse().ok()).ok_or_else(|| {
        format!("it must name a group of /etc/group, which {group:?} is not; others are given as numbers")
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nhoops:x:990:985::/nonexistent:/bin/false\n";
    const GROUPS: &str = "root:x:0:\nhoops:x:985:\nrender:x:106:hoops,ann\n";

    fn find(given: &str) -> Result<(u32, u32), String> {
        SpawnUser::find(given, PASSWD, GROUPS).map(|user| (user.uid, user.gid))
    }

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        assert_eq!(find("hoops"), Ok((990, 985)));
        assert_eq!(find("990"), Ok((990, 985)));
        assert_eq!(find("hoops:render"), Ok((990, 106)));
        assert_eq!(find("hoops:4711"), Ok((990, 4711)));
        assert_eq!(find("4711:106"), Ok((4711, 106)));
    }

    #[test]
    fn what_cannot_be_found_is_reported() {
        for (given, word) in [
            ("", "USER:GROUP"),
            (":render", "USER:GROUP"),
            ("hoops:", "USER:GROUP"),
            ("nobody-here", "/etc/passwd"),
            ("hoops:nobody-here", "/etc/group"),
            ("4711", "4711:GROUP"),
            ("-1:5", "/etc/passwd"),
        ] {
            let error = find(given).unwrap_err();
            assert!(error.contains(word), "{given:?}: {error}");
        }
    }

    #[test]
    fn a_path_from_the_current_directory_is_judged_as_the_whole_one() {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        let name = Path::new(file.path().file_name().unwrap());
        std::fs::set_permissions(name, Permissions::from_mode(0o600)).unwrap();
        let stranger = SpawnUser { given: "hoops".to_owned(), uid: 54_321, gid: 54_321 };
        assert!(stranger.shut_out_of(name).is_some());
    }

    #[test]
    fn what_a_user_cannot_read_is_reported_with_the_directory_that_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let (inner, file) = (dir.path().join("models"), dir.path().join("models/license"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&file, "key").unwrap();
        let stranger = SpawnUser { given: "hoops".to_owned(), uid: 54_321, gid: 54_321 };
        set(dir.path(), 0o755);
        set(&inner, 0o755);
        set(&file, 0o644);
        assert_eq!(stranger.shut_out_of(&file), None);
        assert_eq!(stranger.shut_out_of(&inner), None);
        set(&file, 0o640);
        let why = stranger.shut_out_of(&file).unwrap();
        assert!(why.starts_with("hoops cannot read /") && why.contains("license (mode 0640"), "{why}");
        set(&inner, 0o750);
        let why = stranger.shut_out_of(&file).unwrap();
        assert!(why.starts_with("hoops cannot enter /") && why.contains("models (mode 0750"), "{why}");
        let group = std::fs::metadata(&inner).unwrap().gid();
        let member = SpawnUser { gid: group, ..stranger };
        assert_eq!(member.shut_out_of(&file), None, "the group may");
    }
}
