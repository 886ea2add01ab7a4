//! Processes that a spawn leaves behind outside its process group: it daemonized, or made a session of its own. Where there is a
//! control group the kernel ends them with it; elsewhere they are searched for.
//!
//! A process belongs to a spawn when it has the spawn's mark in its environment, which children inherit, or writes to the
//! spawn's log. One search looks for the leftovers of all spawns that have ended since the last one, so that many ends at once cost one
//! look at all processes. A process that clears its environment and closes its output is not found.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use model::SpawnId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::disk::Lane;
use crate::procfs;

/// The variable that marks a spawn's processes.
pub(crate) const MARK: &str = "HATCHERY_SPAWN";
/// A process may start another one while it is being searched for.
const MAX_ROUNDS: u32 = 10;

/// Ends what ended spawns have left behind.
#[derive(Debug, Clone)]
pub(crate) struct Leftovers(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    logs: PathBuf,
    lane: Lane,
    ended: Mutex<Ended>,
}

/// Spawns whose leftovers have not been searched for.
#[derive(Debug, Default)]
struct Ended {
    ids: HashSet<SpawnId>,
    /// A search that will take them is under way.
    scheduled: bool,
}

impl Leftovers {
    pub(crate) fn new(logs: PathBuf, lane: Lane) -> Self {
        Self(Some(Arc::new(Shared { logs, lane, ended: Mutex::default() })))
    }

    /// Looks for nothing.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The process of this spawn has ended: ends what it has left behind, soon.
    pub(crate) fn of(&self, id: SpawnId) {
        let Some(shared) = &self.0 else { return };
        let mut ended = shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.ids.insert(id);
        shared.schedule(&mut ended);
    }

    /// Tries again what could not be scheduled. To be called now and then.
    pub(crate) fn check(&self) {
        let Some(shared) = &self.0 else { return };
        let mut ended = shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if !ended.ids.is_empty() {
            shared.schedule(&mut ended);
        }
    }
}

impl Shared {
    fn schedule(self: &Arc<Self>, ended: &mut Ended) {
        if !ended.scheduled {
            let shared = Arc::clone(self);
            ended.scheduled = self.lane.post(move || shared.search()).is_ok();
        }
    }

    fn search(&self) {
        loop {
            let ids = {
                let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                if ended.ids.is_empty() {
                    ended.scheduled = false;
                    return;
                }
                std::mem::take(&mut ended.ids)
            };
            for _ in 0..MAX_ROUNDS {
                if end_all(&self.logs, &ids) == 0 {
                    break;
                }
            }
        }
    }
}

/// Ends the processes of these spawns, and says how many there were.
fn end_all(logs: &Path, ids: &HashSet<SpawnId>) -> usize {
    let mut ended = 0;
    for pid in procfs::all() {
        let Some(id) = spawn_of(pid, logs).filter(|id| ids.contains(id)) else { continue };
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(held) = pidfd_open(number, PidfdFlags::empty()) else { continue };
        // Only now that its number is held can it be seen whose it is.
        if spawn_of(pid, logs) != Some(id) {
            continue;
        }
        match pidfd_send_signal(held, Signal::KILL) {
            Ok(()) => {
                ended += 1;
                tracing::info!(spawn.id = %id, pid, "a process that a spawn had left behind was ended");
            }
            Err(error) => {
                tracing::warn!(%error, spawn.id = %id, pid, "failed to end what a spawn had left behind")
            }
        }
    }
    ended
}

/// The spawn that a living process belongs to.
fn spawn_of(pid: u32, logs: &Path) -> Option<SpawnId> {
    // One that has ended has neither environment nor files.
    procfs::variable(pid, MARK).and_then(|id| id.parse().ok()).or_else(|| {
        procfs::outputs(pid).find_map(|path| {
            let name = path.strip_prefix(logs).ok()?.to_str()?;
            name.strip_suffix(" (deleted)").unwrap_or(name).strip_suffix(".log")?.parse().ok()
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_known_by_its_mark_or_its_output() {
        let logs = tempfile::tempdir().unwrap();
        let (marked, writes, other) = (SpawnId::mint(), SpawnId::mint(), SpawnId::mint());
        let log = std::fs::File::create(logs.path().join(format!("{writes}.log"))).unwrap();
        let sleep = || {
            let mut command = Command::new("sleep");
            command.arg("600").process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut children = [
            (sleep().env(MARK, marked.to_string()).spawn().unwrap(), Some(marked)),
            (sleep().stdout(log).spawn().unwrap(), Some(writes)),
            (sleep().env(MARK, "x").spawn().unwrap(), None),
        ];
        for (child, id) in &children {
            assert_eq!(spawn_of(child.id(), logs.path()), *id);
        }
        assert_eq!(end_all(logs.path(), &HashSet::from([other])), 0);
        assert!(children.iter_mut().all(|(child, _)| child.try_wait().unwrap().is_none()));
        assert_eq!(end_all(logs.path(), &HashSet::from([marked, writes])), 2);
        for (child, id) in &mut children {
            if id.is_none() {
                assert!(child.try_wait().unwrap().is_none(), "a stranger");
                child.kill().unwrap();
            }
            child.wait().unwrap();
        }
    }
}
