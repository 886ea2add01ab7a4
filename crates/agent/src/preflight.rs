//! What is found out, taken and warned of before an agent starts: the state directory, the machine's limits, and missing files.

use std::path::Path;

use model::AgentEpoch;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::config::{Config, ConfigError, Launcher};
use crate::disk::{Disk, LOOK_TIMEOUT};
use crate::spawn::args::Fixed;
use crate::spawn::{fingerprint, limits};
use crate::start_error::StartError;
use crate::state::{StateDir, Unusable};
use crate::users::SpawnUsers;

pub(crate) fn open_state(config: &Config, disk: &Disk) -> Result<StateDir, StartError> {
    StateDir::open(&config.state_dir, disk.state.clone()).map_err(|unusable| match unusable {
        Unusable::Taken(pid) => StartError::StateTaken { path: config.state_dir.clone(), pid },
        Unusable::Broken(path, source) => StartError::StateDir { path, source },
    })
}

/// Makes sure that process descriptors can be had: without them the end of a spawn is not seen. Some sandboxes refuse them.
pub(crate) fn may_watch_processes() -> Result<(), StartError> {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Ok(()),
        // Out of descriptors, for example: it is for what starts to say so.
        Err(error @ (Errno::NOSYS | Errno::PERM | Errno::ACCESS)) => Err(StartError::Pidfd(error.into())),
        Err(_) => Ok(()),
    }
}

/// Makes sure that the agent may start processes of other users: only root may.
pub(crate) fn may_change_user(config: &Config) -> Result<(), ConfigError> {
    let user = rustix::process::geteuid();
    match &config.spawn_users {
        Some(wanted) if !user.is_root() => {
            let problem = format!(
                "it needs the agent to run as root, to start spawns as {wanted}; it runs as user {}",
                user.as_raw()
            );
            Err(ConfigError::new("--spawn-user", problem))
        }
        Some(_) | None => Ok(()),
    }
}

/// Warns of files that are missing, in a while. They may be on a share that comes later, or that hangs, so that is no error and nothing
/// waits for it.
pub(crate) fn warn_of_missing(config: &Config, disk: &Disk) {
    let executable = match &config.launcher {
        Launcher::Executable(path) => Some(path),
        Launcher::Nothing | Launcher::Simulated(_) => None,
    };
    let files = [("--executable", executable), ("--license-file", config.license_file.as_ref())];
    let files = files.into_iter().filter_map(|(flag, path)| Some((flag, path?, &disk.starts)));
    let dirs = config.model_dirs.iter().map(|dir| ("--model-dir", dir, &disk.models));
    let looks: Vec<_> =
        files.chain(dirs).map(|(flag, path, lane)| (flag, path.clone(), lane.clone())).collect();
    let users = config.spawn_users.clone();
    tokio::spawn(async move {
        for (flag, path, lane) in looks {
            let (looked_at, users) = (path.clone(), users.clone());
            let look = move || warn_if_missing(flag, &looked_at, users.as_ref());
            if let Err(error) = lane.call(LOOK_TIMEOUT, look).await {
                tracing::warn!(%error, flag, path = %path.display(), "whether a file is there is not known, spawns will fail until the disk answers");
            }
        }
    });
}

fn warn_if_missing(flag: &str, path: &Path, users: Option<&SpawnUsers>) {
    if let Err(error) = std::fs::metadata(path) {
        tracing::warn!(%error, flag, path = %path.display(), "a file is missing, spawns will fail until it is there");
    }
    if let Some(why) = users.and_then(|users| users.shut_out_of(path)) {
        tracing::warn!(why, flag, path = %path.display(), "spawns cannot read a file as --spawn-user");
    }
}

/// The [fingerprint](crate::spawn::fingerprint) of the settings of this agent's servers. Where the disk of the executable does not
/// answer it is one that no other agent has: warm servers of earlier agents are ended then, spawns go on.
pub(crate) async fn fingerprint(config: &Config, fixed: &Fixed, disk: &Disk) -> String {
    let (of, with) = (config.clone(), fixed.clone());
    match disk.starts.call(LOOK_TIMEOUT, move || fingerprint::fingerprint(&of, &with)).await {
        Ok(fingerprint) => fingerprint,
        Err(error) => {
            tracing::warn!(%error, flag = "--executable", "the executable cannot be looked at, warm servers of an earlier agent are not kept");
            format!("unknown {}", AgentEpoch::mint())
        }
    }
}

/// The files that an agent with so many slots may have open at once.
pub(crate) fn wanted_files(slots: u32) -> u64 {
    u64::from(slots) * 6 + 512
}

/// Makes sure that there can be a process descriptor, and all connections that its receiver allows, for every slot.
pub(crate) fn allow_files(slots: u32) {
    let wanted = wanted_files(slots);
    if let Some(current) = limits::raise(wanted) {
        tracing::warn!(wanted, current, "the limit of open files is low for so many slots");
    }
}
