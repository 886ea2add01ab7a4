//! Whether a process that nothing is recorded of, and that looks like a spawn, is the server of one: by its user, and by the program that it runs.
//!
//! Owns nothing. The executable may be on a share that hangs; after one look without an answer, a process is taken for what its user says.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::config::{Config, Launcher};
use crate::disk::{Disk, LOOK_TIMEOUT, Lane};
use crate::procfs;
use crate::users::SpawnUsers;
use crate::users::user::Ids;

/// Why a process without a record that looks like a spawn is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It runs as this user, who no spawn runs as.
    User(u32),
    /// It runs another program, or as a user whose spawn is another process.
    NotTheServer,
}

/// `taken` are the users of spawns that have records.
pub(super) async fn doubts(
    config: &Config,
    pid: u32,
    taken: &HashSet<u32>,
    programs: &mut Programs,
) -> Option<Doubt> {
    let [uid, ..] = procfs::uids(pid)?;
    let own = rustix::process::geteuid().as_raw();
    let of_spawns = config.spawn_users.as_ref().is_some_and(|users| users.holds(uid));
    if uid != own && !of_spawns {
        return Some(Doubt::User(uid));
    }
    // One that this agent may not look into has at least its user.
    let is_server = programs.is_server(pid).await != Some(false);
    let is_taken = matches!(config.spawn_users, Some(SpawnUsers::Each(_))) && taken.contains(&uid);
    (!is_server || is_taken).then_some(Doubt::NotTheServer)
}

/// Finds out which processes run the server's executable, which may be on a share that hangs.
pub(super) struct Programs {
    executable: Option<PathBuf>,
    disk: Lane,
    /// Whether a look has gone without an answer: no more are waited for.
    hangs: bool,
}

impl Programs {
    pub(super) fn of(config: &Config, disk: &Disk) -> Self {
        let executable = match &config.launcher {
            Launcher::Executable(file) => Some(file.clone()),
            Launcher::Nothing | Launcher::Simulated(_) => None,
        };
        Self { executable, disk: disk.starts.clone(), hangs: false }
    }

    /// Whether a process runs the server. `None` where that cannot be seen, or where nothing says what the server is.
    async fn is_server(&mut self, pid: u32) -> Option<bool> {
        let file = self.executable.clone()?;
        if procfs::names(pid, &file) == Some(true) {
            return Some(true);
        }
        if self.hangs {
            return None;
        }
        let looked = self.disk.call(LOOK_TIMEOUT, move || procfs::executes(pid, &file)).await;
        self.hangs = looked.is_err();
        looked.ok().flatten()
    }
}

/// Who a process without a record was started as.
pub(super) fn user_of(config: &Config, pid: u32) -> Option<Ids> {
    let [uid, ..] = procfs::uids(pid)?;
    match config.spawn_users.as_ref()? {
        SpawnUsers::One(user) => (user.uid == uid).then_some(Ids { uid, gid: user.gid }),
        SpawnUsers::Each(range) => range.holds(uid).then(|| range.ids(uid)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    async fn doubt(config: &Config, pid: u32, taken: &HashSet<u32>) -> Option<Doubt> {
        let disk = Disk::new().unwrap();
        doubts(config, pid, taken, &mut Programs::of(config, &disk)).await
    }

    #[tokio::test]
    async fn only_a_server_of_a_user_of_spawns_is_taken_for_a_spawn() {
        let (own, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
        let server = std::env::current_exe().unwrap();
        let config = |file: &str, users| Config {
            spawn_users: users,
            ..Config::new("n".parse().unwrap(), Launcher::Executable(file.into()), "/s".into())
        };
        let nobody = HashSet::new();
        let good = config(server.to_str().unwrap(), None);
        assert_eq!(doubt(&good, pid, &nobody).await, None);
        assert_eq!(doubt(&config("/bin/other", None), pid, &nobody).await, Some(Doubt::NotTheServer));
        if own != 0 {
            return;
        }
        let sleep = |uid: u32| {
            let mut command = Command::new("/bin/sleep");
            command.arg("600").uid(uid).gid(uid).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let mut child = sleep(1_910_061_300);
        let each = |first| Some(SpawnUsers::Each((first..=first + 1).into()));
        for (users, taken, want) in [
            (None, false, Some(Doubt::User(1_910_061_300))),
            (each(1_910_061_400), false, Some(Doubt::User(1_910_061_300))),
            (each(1_910_061_300), false, None),
            (each(1_910_061_300), true, Some(Doubt::NotTheServer)),
        ] {
            let taken = taken.then_some(1_910_061_300).into_iter().collect();
            assert_eq!(doubt(&config("/bin/sleep", users), child.id(), &taken).await, want);
        }
        let ids = Some(Ids { uid: 1_910_061_300, gid: 1_910_061_300 });
        assert_eq!(user_of(&config("/bin/sleep", each(1_910_061_300)), child.id()), ids);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn while_the_disk_of_the_executable_hangs_a_process_is_taken_for_what_its_user_says() {
        let config =
            Config::new("n".parse().unwrap(), Launcher::Executable("/bin/other".into()), "/s".into());
        let disk = Disk::new().unwrap();
        let mut programs = Programs::of(&config, &disk);
        let (pid, nobody) = (std::process::id(), HashSet::new());
        let mut held = Vec::new();
        while !disk.starts.is_stuck() {
            let (release, wait) = std::sync::mpsc::channel::<()>();
            let wait_for_it = move || {
                wait.recv().ok();
            };
            if disk.starts.post(wait_for_it).is_ok() {
                held.push(release);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(doubts(&config, pid, &nobody, &mut programs).await, None);
        drop(held);
    }
}
