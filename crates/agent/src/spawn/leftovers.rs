//! Processes that a spawn leaves behind outside its process group: it daemonized, or made a session of its own. Where there is a
//! control group the kernel ends them with it; elsewhere they are searched for.
//!
//! A process belongs to a spawn when it has the spawn's mark in its environment, which children inherit, or writes to the
//! spawn's log. One search looks for the leftovers of all spawns that have ended since the last one, so that many ends at once cost one
//! look at all processes. A process that clears its environment and closes its output is not found.
//!
//! A look reads several files of every process of the machine: without a rest between two of them, a node on which a spawn ends every few
//! milliseconds would spend a whole processor on it. The first end after a rest is looked after at once, the others with the next round of
//! housekeeping, so leftovers live a second or two longer while many spawns end.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SpawnId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use crate::disk::Lane;
use crate::procfs;

/// The variable that marks a spawn's processes.
pub(crate) const MARK: &str = "HATCHERY_SPAWN";
/// A process may start another one while it is being searched for.
const MAX_ROUNDS: u32 = 10;
/// After a search, no other one begins for so long, or for so many times as long as it took.
const REST: Duration = Duration::from_millis(500);
const REST_PARTS: u32 = 20;
/// How long the last search of an agent may take.
const LAST_SEARCH: Duration = Duration::from_secs(1);

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
    /// No search begins before.
    rest_until: Option<Instant>,
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
        let mut ended = shared.ended();
        ended.ids.insert(id);
        shared.schedule(&mut ended);
    }

    /// Searches for what had to wait. To be called once a second.
    pub(crate) fn check(&self) {
        let Some(shared) = &self.0 else { return };
        let mut ended = shared.ended();
        if !ended.ids.is_empty() {
            shared.schedule(&mut ended);
        }
    }

    /// Searches for what is left at the end of the agent, and waits for that.
    pub(crate) async fn finish(&self) {
        let Some(shared) = &self.0 else { return };
        let ids = std::mem::take(&mut shared.ended().ids);
        if ids.is_empty() {
            return;
        }
        let search = Arc::clone(shared);
        if let Err(error) = shared.lane.call(LAST_SEARCH, move || search.end(&ids)).await {
            tracing::warn!(%error, "what the last spawns may have left behind was not searched for");
        }
    }
}

impl Shared {
    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(self: &Arc<Self>, ended: &mut Ended) {
        let rests = ended.rest_until.is_some_and(|until| Instant::now() < until);
        if !ended.scheduled && !rests {
            let shared = Arc::clone(self);
            ended.scheduled = self.lane.post(move || shared.search()).is_ok();
        }
    }

    fn search(&self) {
        let ids = std::mem::take(&mut self.ended().ids);
        let began = Instant::now();
        self.end(&ids);
        let now = Instant::now();
        let mut ended = self.ended();
        ended.scheduled = false;
        ended.rest_until = Some(now + REST.max((now - began) * REST_PARTS));
    }

    fn end(&self, ids: &HashSet<SpawnId>) {
        for _ in 0..MAX_ROUNDS {
            if end_all(&self.logs, ids) == 0 {
                break;
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
    fn ends_in_a_row_cost_one_search_and_a_rest_and_none_is_forgotten() {
        let logs = tempfile::tempdir().unwrap();
        let leftovers = Leftovers::new(logs.path().to_owned(), Lane::new("test", 1, 16).unwrap());
        let shared = Arc::clone(leftovers.0.as_ref().unwrap());
        let waits = |count: usize| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while shared.ended().ids.len() != count || shared.ended().scheduled {
                assert!(Instant::now() < deadline, "{:?}", shared.ended());
                std::thread::yield_now();
            }
        };
        leftovers.of(SpawnId::mint());
        waits(0);
        assert!(shared.ended().rest_until.is_some());
        for _ in 0..100 {
            leftovers.of(SpawnId::mint());
        }
        waits(100);
        shared.ended().rest_until = None;
        leftovers.check();
        waits(0);
    }

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
        // A start returns when the new program is loaded, a moment before /proc shows its environment.
        let began = Instant::now();
        let shown =
            |pid: u32| std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|text| !text.is_empty());
        for (child, id) in &children {
            while !shown(child.id()) {
                assert!(began.elapsed() < Duration::from_secs(20), "/proc shows no environment");
                std::thread::yield_now();
            }
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
