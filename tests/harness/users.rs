//! Spawns with a user each, and what users can do.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::binaries::binaries;
use crate::farm::Farm;
use crate::plan::AgentPlan;
use crate::processes::status;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A place for a server that every user may start, and the users of one agent's spawns.
#[derive(Debug)]
pub struct Users {
    /// For files that every user may find.
    pub dir: tempfile::TempDir,
    /// The simulated server, which every user may start.
    pub executable: PathBuf,
    /// The lowest number.
    pub first: u32,
    count: u32,
}

impl Users {
    /// So many that no other test has, and no user, container or service: systemd gives numbers up to 1879048191 to those
    /// (<https://systemd.io/UIDS-GIDS/>).
    pub fn new(count: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("hatchery-test-").tempdir().expect("a scratch directory");
        open_to_all(dir.path());
        let executable = dir.path().join("ts3d-sc-sim");
        fs::copy(&binaries().simulator, &executable).expect("a copy");
        let block = NEXT.fetch_add(1, Ordering::Relaxed);
        let first = 1_900_000_000 + (std::process::id() % 4_000) * 1_000 + block * 20;
        Self { dir, executable, first, count }
    }

    /// As `--spawn-user` takes it.
    #[must_use]
    pub fn range(&self) -> String {
        format!("{}-{}", self.first, self.first + self.count - 1)
    }

    /// Every number.
    #[must_use]
    pub fn all(&self) -> BTreeSet<u32> {
        (self.first..self.first + self.count).collect()
    }

    /// A farm of one agent with a user for each slot.
    pub async fn farm(&self) -> Farm {
        self.farm_with(&["--spawn-user", &self.range()]).await
    }

    /// A farm of one agent with these flags and a slot for each user.
    pub async fn farm_with(&self, flags: &[&str]) -> Farm {
        let slots = u16::try_from(self.count).expect("few");
        let plan = AgentPlan::slots(slots).executable(&self.executable);
        let plan = plan.args(&[flags, &["--ping-interval", "500ms"]].concat());
        let farm = Farm::builder().agent(plan).start().await;
        open_to_all(farm.mark());
        farm
    }
}

/// Lets every user find what is in it, or run it.
pub fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("one's own directory");
}

/// The real, effective, saved and file system user (`Uid`) or group (`Gid`), or the `Groups`, of a process.
pub fn ids(pid: u32, word: &str) -> BTreeSet<u32> {
    status(pid, word).iter().map(|id| id.parse().expect("a number")).collect()
}

/// The one user that a process of a spawn runs as, which is its one group as well.
#[must_use]
pub fn user(pid: u32) -> u32 {
    let users = ids(pid, "Uid");
    assert_eq!(users.len(), 1, "{users:?}");
    assert_eq!(ids(pid, "Gid"), users);
    assert_eq!(ids(pid, "Groups"), BTreeSet::new());
    users.into_iter().next().expect("one")
}

/// Whether a user with a group of its number can do this.
pub fn can(uid: u32, script: &str) -> bool {
    can_with(uid, uid, script)
}

/// The same with this group.
pub fn can_with(uid: u32, gid: u32, script: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", script]).uid(uid).gid(gid).current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("a shell")
        .success()
}
