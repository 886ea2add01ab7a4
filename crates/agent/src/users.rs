//! All who spawns of an agent run as: one user, or each spawn a user of its own.

pub(crate) mod user;

use std::collections::VecDeque;
use std::fmt;
use std::fs::Metadata;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use self::user::{Ids, SpawnUser, group_of_this_machine};

/// Whom spawns run as, where that is not the agent's own user (`--spawn-user`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpawnUsers {
    /// All spawns run as one user.
    One(SpawnUser),
    /// Every spawn runs as a user that no other spawn of the node has meanwhile.
    Each(UserRange),
}

/// `FIRST-LAST[:GROUP]`: the users of spawns that have one each, and their group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRange {
    users: RangeInclusive<u32>,
    group: Option<SharedGroup>,
}

/// The only group of all spawns. It lets them read what is meant for all of them (a licence, a GPU's device), and nothing of each other,
/// since what they make is for its user alone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SharedGroup {
    /// As the command line had it.
    given: String,
    gid: u32,
}

impl From<RangeInclusive<u32>> for UserRange {
    /// Users whose group has the number of the user.
    fn from(users: RangeInclusive<u32>) -> Self {
        Self { users, group: None }
    }
}

impl fmt::Display for UserRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.users.start(), self.users.end())?;
        match &self.group {
            Some(group) => write!(f, ":{}", group.given),
            None => Ok(()),
        }
    }
}

impl UserRange {
    fn first(&self) -> u32 {
        *self.users.start()
    }

    fn count(&self) -> u64 {
        u64::from(*self.users.end()) - u64::from(*self.users.start()) + 1
    }

    pub(crate) fn holds(&self, uid: u32) -> bool {
        self.users.contains(&uid)
    }

    /// This user with its group.
    pub(crate) fn ids(&self, uid: u32) -> Ids {
        Ids { uid, gid: self.group.as_ref().map_or(uid, |group| group.gid) }
    }

    fn user(&self, uid: u32, given: String) -> SpawnUser {
        let Ids { uid, gid } = self.ids(uid);
        SpawnUser { given, uid, gid }
    }
}

impl fmt::Display for SpawnUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(user) => user.fmt(f),
            Self::Each(range) => range.fmt(f),
        }
    }
}

impl SpawnUsers {
    /// Understands `USER[:GROUP]`, and `FIRST-LAST[:GROUP]` for numbers.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn resolve(given: &str) -> Result<Self, String> {
        let (users, group) = match given.split_once(':') {
            Some((users, group)) => (users, Some(group)),
            None => (given, None),
        };
        let Some(users) = range(users) else { return SpawnUser::resolve(given).map(Self::One) };
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let users = check_range(users, &passwd)?;
        let group = group
            .map(|group| Ok::<_, String>(SharedGroup { given: group.to_owned(), gid: shared_group(group)? }));
        Ok(Self::Each(UserRange { users, group: group.transpose()? }))
    }

    /// How many spawns there can be at once; as many as there are slots when absent.
    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Self::One(_) => None,
            Self::Each(range) => Some(range.count()),
        }
    }

    /// Whether spawns may run as this user.
    pub(crate) fn holds(&self, uid: u32) -> bool {
        match self {
            Self::One(user) => user.uid == uid,
            Self::Each(range) => range.holds(uid),
        }
    }

    /// Users that stand for all of them where a file's owner and group are these.
    fn examples(&self, meta: Option<&Metadata>) -> Vec<SpawnUser> {
        match self {
            Self::One(user) => vec![user.clone()],
            Self::Each(range) => {
                let owners = meta.into_iter().flat_map(|meta| [meta.uid(), meta.gid()]);
                let mut of_range: Vec<u32> = owners.filter(|id| range.holds(*id)).collect();
                of_range.push(range.first());
                of_range.into_iter().map(|id| range.user(id, id.to_string())).collect()
            }
        }
    }

    /// What keeps a spawn from reading a file, or from listing and entering a directory, as far as modes show.
    pub(crate) fn shut_out_of(&self, path: &Path) -> Option<String> {
        self.of_everybody().shut_out_of(path)
    }

    /// What keeps a spawn from running a file, as far as modes show.
    pub(crate) fn cannot_run(&self, path: &Path) -> Option<String> {
        self.of_everybody().cannot_run(path)
    }

    /// A user that has no more rights than every other one.
    fn of_everybody(&self) -> SpawnUser {
        match self {
            Self::One(user) => user.clone(),
            Self::Each(range) => range.user(range.first(), self.to_string()),
        }
    }

    /// Whether some spawn can read a file, as far as modes show.
    pub(crate) fn can_read(&self, path: &Path) -> bool {
        let Ok(meta) = std::fs::metadata(path) else { return false };
        self.examples(Some(&meta)).iter().any(|user| user.shut_out_of(path).is_none())
    }

    /// Whether some spawn can write to what has these modes: a file, or the names in a directory.
    pub(crate) fn can_write(&self, meta: &Metadata) -> bool {
        self.examples(Some(meta)).iter().any(|user| user.may(meta, 0o2))
    }
}

/// `FIRST-LAST`, both numbers: no user's name is of that form.
fn range(given: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = given.split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    Some(number(first)?..=number(last)?)
}

/// The number of the group of all spawns.
fn shared_group(group: &str) -> Result<u32, String> {
    match group_of_this_machine(group)? {
        // The last number of all means no group.
        gid @ (0 | u32::MAX) => Err(format!(
            "it must name a group of which spawns may read everything, as FIRST-LAST:GROUP, not {group:?} ({gid})"
        )),
        gid => Ok(gid),
    }
}

fn check_range(range: RangeInclusive<u32>, passwd: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = (*range.start(), *range.end());
    let given = format!("{first}-{last}");
    // The last number of all means no user.
    if first == 0 || first > last || last == u32::MAX {
        return Err(format!("expected FIRST-LAST with 1 <= FIRST <= LAST, got {given:?}"));
    }
    // name:password:uid:…
    let account = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid = fields.get(2)?.parse().ok()?;
        range.contains(&uid).then(|| format!("{} ({uid})", fields[0]))
    });
    match account {
        Some(account) => Err(format!(
            "it must hold no user of /etc/passwd, whose files and processes spawns could have; {given} holds {account}"
        )),
        None => Ok(range),
    }
}

/// Which users are free for spawns, the longest rested in front: what a spawn has left behind is its own for as long as possible.
#[derive(Debug)]
pub(crate) enum Users {
    /// All spawns run as this one, or as the agent.
    Shared(Option<Ids>),
    Own {
        range: UserRange,
        free: VecDeque<u32>,
        /// Users of spawns of an earlier agent beyond the first spawn that has them, or of another range.
        foreign: Vec<u32>,
        /// Users of which something is left that no other spawn may meet.
        retired: Vec<u32>,
    },
}

impl Users {
    pub(crate) fn new(users: Option<&SpawnUsers>) -> Self {
        match users {
            None => Self::Shared(None),
            Some(SpawnUsers::One(user)) => Self::Shared(Some(Ids { uid: user.uid, gid: user.gid })),
            Some(SpawnUsers::Each(range)) => Self::Own {
                range: range.clone(),
                free: range.users.clone().take(MAX_USERS).collect(),
                foreign: Vec::new(),
                retired: Vec::new(),
            },
        }
    }

    /// The user of the next spawn; `None` when all are taken.
    pub(crate) fn take(&mut self) -> Option<Option<Ids>> {
        match self {
            Self::Shared(ids) => Some(*ids),
            Self::Own { range, free, .. } => free.pop_front().map(|uid| Some(range.ids(uid))),
        }
    }

    /// A spawn of an earlier agent has this one.
    pub(crate) fn claim(&mut self, user: Option<Ids>) {
        let (Self::Own { free, foreign, .. }, Some(user)) = (self, user) else { return };
        let before = free.len();
        free.retain(|id| *id != user.uid);
        if free.len() == before {
            foreign.push(user.uid);
        }
    }

    /// No spawn gets this one any more, from when the one that has it has ended.
    pub(crate) fn retire(&mut self, uid: u32) {
        if let Self::Own { retired, .. } = self
            && !retired.contains(&uid)
        {
            retired.push(uid);
        }
    }

    /// Its spawn has ended.
    pub(crate) fn give_back(&mut self, user: Option<Ids>) {
        let (Self::Own { range, free, foreign, retired }, Some(user)) = (self, user) else { return };
        if let Some(at) = foreign.iter().position(|id| *id == user.uid) {
            foreign.swap_remove(at);
        } else if range.holds(user.uid) && !retired.contains(&user.uid) {
            free.push_back(user.uid);
        }
    }
}

/// Of a longer range the rest is not used.
const MAX_USERS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nhoops:x:990:985::/nonexistent:/bin/false\n";

    #[test]
    fn a_range_of_users_is_two_numbers_and_holds_no_other_user() {
        assert_eq!(range("20000-20031"), Some(20_000..=20_031));
        for name in ["hoops", "svc-1", "1-x", "x-1", "-5", "5-", "+1-+2", "20000", "20000-20031:hoops"] {
            assert_eq!(range(name), None, "{name}");
        }
        assert_eq!(check_range(20_000..=20_031, PASSWD), Ok(20_000..=20_031));
        for (bad, word) in [
            (0..=10, "1 <= FIRST"),
            (RangeInclusive::new(5, 4), "1 <= FIRST"),
            (5..=u32::MAX, "FIRST <= LAST"),
            (985..=995, "hoops (990)"),
        ] {
            let error = check_range(bad, PASSWD).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(SpawnUsers::Each((20_000..=20_031).into()).count(), Some(32));
    }

    #[test]
    fn a_range_of_users_may_have_one_group_for_all_by_name_or_number() {
        let spawn_users = SpawnUsers::resolve("3000000000-3000000001:4711").unwrap();
        assert_eq!(spawn_users.to_string(), "3000000000-3000000001:4711");
        assert_eq!(spawn_users.count(), Some(2));
        let mut users = Users::new(Some(&spawn_users));
        let ids = |uid| Some(Some(Ids { uid, gid: 4711 }));
        assert_eq!((users.take(), users.take()), (ids(3_000_000_000), ids(3_000_000_001)));
        let named = std::fs::read_to_string("/etc/group").unwrap();
        let named: Vec<&str> = named.lines().map(|line| line.split(':').next().unwrap()).collect();
        let name =
            named.iter().find(|name| SpawnUsers::resolve(&format!("3000000000-3000000001:{name}")).is_ok());
        assert!(name.is_some(), "one group at the least is not root's: {named:?}");
        for (bad, word) in [
            ("3000000000-3000000001:", "/etc/group"),
            ("3000000000-3000000001:nobody-here", "/etc/group"),
            ("3000000000-3000000001:0", "spawns may read everything"),
            ("3000000000-3000000001:4294967295", "FIRST-LAST:GROUP"),
            ("3000000001-3000000000:4711", "FIRST <= LAST"),
        ] {
            let error = SpawnUsers::resolve(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn a_file_of_the_group_of_all_spawns_can_be_read_by_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let file = dir.path().join("license");
        std::fs::write(&file, "").unwrap();
        let group = std::fs::metadata(&file).unwrap().gid();
        let with = |gid| {
            let group = Some(SharedGroup { given: "hoops".to_owned(), gid });
            SpawnUsers::Each(UserRange { users: 54_000..=54_001, group })
        };
        let (members, others) = (with(group), with(group + 1));
        for (mode, read, write) in [(0o640, true, false), (0o660, true, true), (0o600, false, false)] {
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let meta = std::fs::metadata(&file).unwrap();
            assert_eq!((members.can_read(&file), members.can_write(&meta)), (read, write), "{mode:o}");
            assert_eq!(members.shut_out_of(&file).is_none(), read, "{mode:o}");
            assert!(!others.can_read(&file) && !others.can_write(&meta), "{mode:o}");
        }
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let why = members.shut_out_of(&file).unwrap();
        assert!(why.starts_with("54000-54001:hoops cannot read /"), "{why}");
    }

    #[test]
    fn a_user_of_a_range_has_one_spawn_at_a_time_and_rests_longest() {
        let ids = |uid| Some(Ids { uid, gid: uid });
        let mut users = Users::new(Some(&SpawnUsers::Each((7..=9).into())));
        users.claim(ids(8));
        users.claim(ids(500));
        users.claim(ids(8));
        assert_eq!((users.take(), users.take(), users.take()), (Some(ids(7)), Some(ids(9)), None));
        for given_back in [500, 8] {
            users.give_back(ids(given_back));
            assert_eq!(users.take(), None, "another spawn has it, or it is of no use here");
        }
        users.give_back(ids(9));
        users.give_back(ids(8));
        assert_eq!((users.take(), users.take()), (Some(ids(9)), Some(ids(8))));
        assert_eq!(users.take(), None);
        users.retire(9);
        users.give_back(ids(9));
        users.give_back(ids(8));
        assert_eq!((users.take(), users.take()), (Some(ids(8)), None), "one is retired");
        let mut shared = Users::new(None);
        assert_eq!((shared.take(), shared.take()), (Some(None), Some(None)));
    }

    #[test]
    fn a_file_of_one_user_of_a_range_can_be_read_by_a_spawn() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "").unwrap();
        let owner = std::fs::metadata(&file).unwrap();
        let set = |mode| std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let (own, others) = (
            SpawnUsers::Each((owner.uid()..=owner.uid() + 5).into()),
            SpawnUsers::Each((54_000..=54_001).into()),
        );
        set(0o600);
        assert!(own.can_read(&file) && !others.can_read(&file));
        set(0o644);
        assert!(others.can_read(&file));
        set(0o602);
        assert!(others.can_write(&std::fs::metadata(&file).unwrap()));
    }
}
