//! How long the output of ended spawns is kept: bounds of age, number and bytes on the disk.
//!
//! Owns the list of files of ended spawns, oldest first; files of living spawns are not in it and never deleted. Work goes in bounded
//! steps on the disk's threads. A file that cannot be deleted is left to the next agent.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use model::SpawnId;
use tokio::time::Instant;

use crate::spawn::output;

/// What is kept of logs whose spawns have ended. A server writes about a kilobyte; one that writes without end is cut at 8 MiB, so that the
/// bytes are what bounds its node's disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long.
    pub(crate) age: Duration,
    pub(crate) count: usize,
    /// On the disk.
    pub(crate) bytes: u64,
}

impl Bounds {
    /// The bounds of an agent that keeps them for so long.
    pub(crate) const fn of(age: Duration) -> Self {
        Self { age, count: 10_000, bytes: 1 << 30 }
    }
}

/// Most files of earlier lives that are looked at.
const MAX_SCANNED: usize = 20_000;
/// Most files that are looked at or deleted in one step.
const MAX_STEP: usize = 500;

/// The files of ended spawns.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
    bounds: Bounds,
    /// Held for a moment, never across an await.
    ended: Mutex<Ended>,
}

/// Files of ended spawns, the oldest first.
#[derive(Debug, Default)]
struct Ended {
    files: VecDeque<Kept>,
    /// How many of the newest were not measured yet.
    unmeasured: usize,
    /// Of those that were.
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    since: Instant,
    id: SpawnId,
    bytes: u64,
}

impl Ended {
    fn is_over(&self, bounds: &Bounds, now: Instant) -> bool {
        self.files.len() > bounds.count
            || self.bytes > bounds.bytes
            || self.files.front().is_some_and(|kept| now.saturating_duration_since(kept.since) >= bounds.age)
    }

    fn pop(&mut self) -> Option<Kept> {
        let kept = self.files.pop_front()?;
        self.unmeasured = self.unmeasured.min(self.files.len());
        self.bytes -= kept.bytes;
        Some(kept)
    }
}

impl Logs {
    /// Takes over what earlier agents left in `dir`; what belongs to the `living` is not touched.
    pub(crate) fn open(dir: PathBuf, living: &HashSet<SpawnId>, bounds: Bounds) -> Self {
        let now = SystemTime::now();
        let entries = std::fs::read_dir(&dir).inspect_err(
            |error| tracing::warn!(%error, path = %dir.display(), "failed to look for logs of earlier spawns"),
        );
        let mut found: Vec<(Duration, SpawnId)> = entries
            .into_iter()
            .flatten()
            .take(MAX_SCANNED)
            .filter_map(Result::ok)
            .filter_map(|entry| {
                // What a warm server wrote goes with it.
                if output::warm_server_of(&entry.path()).is_some_and(|server| !living.contains(&server)) {
                    delete(&entry.path());
                    return None;
                }
                let id = id_of(&entry.file_name().into_string().ok()?).filter(|id| !living.contains(id))?;
                let age = now.duration_since(entry.metadata().ok()?.modified().ok()?).unwrap_or_default();
                Some((age, id))
            })
            .collect();
        found.sort_unstable();
        let at = Instant::now();
        let logs = Self { dir, bounds, ended: Mutex::default() };
        for (i, (age, id)) in found.into_iter().enumerate() {
            // The clock of instants may have begun after the file was written.
            let since = at.checked_sub(age).filter(|_| age < bounds.age && i < bounds.count);
            match since {
                Some(since) => {
                    let bytes = logs.bytes_of(id);
                    let mut ended = logs.lock();
                    ended.files.push_front(Kept { since, id, bytes });
                    ended.bytes += bytes;
                }
                None => logs.delete(id),
            }
        }
        logs
    }

    /// Its spawn has ended.
    pub(crate) fn retire(&self, id: SpawnId, now: Instant) {
        let mut ended = self.lock();
        ended.files.push_back(Kept { since: now, id, bytes: 0 });
        ended.unmeasured += 1;
    }

    /// Its spawn was never started. Blocks.
    pub(crate) fn discard(&self, id: SpawnId) {
        self.delete(id);
    }

    /// Whether there is something for [`Logs::sweep`] to do.
    pub(crate) fn has_old(&self, now: Instant) -> bool {
        let ended = self.lock();
        ended.unmeasured > 0 || ended.is_over(&self.bounds, now)
    }

    /// Measures what is new and deletes what is too old or too much, a bounded number of files. Blocks.
    pub(crate) fn sweep(&self, now: Instant) {
        for _ in 0..MAX_STEP {
            let Some(id) = self.unmeasured() else { break };
            self.measured(id, self.bytes_of(id));
        }
        for _ in 0..MAX_STEP {
            let mut ended = self.lock();
            let victim = if ended.is_over(&self.bounds, now) { ended.pop() } else { None };
            drop(ended);
            match victim {
                Some(Kept { id, .. }) => self.delete(id),
                None => return,
            }
        }
    }

    /// The oldest file that was not measured.
    fn unmeasured(&self) -> Option<SpawnId> {
        let ended = self.lock();
        let at = ended.files.len().checked_sub(ended.unmeasured)?;
        ended.files.get(at).map(|kept| kept.id)
    }

    fn measured(&self, id: SpawnId, bytes: u64) {
        let mut ended = self.lock();
        let Some(at) = ended.files.len().checked_sub(ended.unmeasured) else { return };
        // Another sweep may have measured or deleted it meanwhile.
        if let Some(kept) = ended.files.get_mut(at).filter(|kept| kept.id == id) {
            kept.bytes = bytes;
            ended.unmeasured -= 1;
            ended.bytes += bytes;
        }
    }

    /// What its file takes of the disk. None that is gone, or cannot be looked at, takes anything.
    fn bytes_of(&self, id: SpawnId) -> u64 {
        let meta = std::fs::symlink_metadata(output::path(&self.dir, id));
        meta.map_or(0, |meta| meta.blocks() * 512)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delete(&self, id: SpawnId) {
        delete(&output::path(&self.dir, id));
    }
}

fn delete(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, path = %path.display(), "failed to delete an old log"),
    }
}

fn id_of(file_name: &str) -> Option<SpawnId> {
    file_name.strip_suffix(".log")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path) -> SpawnId {
        let id = SpawnId::mint();
        std::fs::write(output::path(dir, id), "x").unwrap();
        id
    }

    fn exists(dir: &Path, id: SpawnId) -> bool {
        output::path(dir, id).exists()
    }

    const BOUNDS: Bounds = Bounds { age: Duration::from_secs(3600), count: 5, bytes: 1 << 20 };

    fn open(dir: &Path, living: &HashSet<SpawnId>) -> Logs {
        Logs::open(dir.to_owned(), living, BOUNDS)
    }

    #[test]
    fn logs_go_when_they_are_old_or_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let logs = open(dir.path(), &HashSet::new());
        let now = Instant::now();
        let first = write(dir.path());
        logs.retire(first, now);
        for _ in 0..BOUNDS.count - 1 {
            logs.retire(SpawnId::mint(), now);
        }
        logs.sweep(now);
        assert!(exists(dir.path(), first) && !logs.has_old(now));
        let last = write(dir.path());
        logs.retire(last, now);
        assert!(logs.has_old(now));
        logs.sweep(now);
        assert!(!logs.has_old(now) && !exists(dir.path(), first));
        logs.sweep(now + BOUNDS.age);
        assert!(!exists(dir.path(), last));
    }

    #[test]
    fn logs_go_when_they_take_too_much_of_the_disk_the_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let logs = open(dir.path(), &HashSet::new());
        let now = Instant::now();
        let large = || {
            let id = write(dir.path());
            std::fs::write(output::path(dir.path(), id), vec![b'x'; 400 << 10]).unwrap();
            logs.retire(id, now);
            id
        };
        let (first, second) = (large(), large());
        logs.sweep(now);
        assert!(exists(dir.path(), first) && exists(dir.path(), second));
        let third = large();
        logs.sweep(now);
        assert!(!exists(dir.path(), first) && exists(dir.path(), second) && exists(dir.path(), third));
        // What an earlier agent left counts as well.
        let next = open(dir.path(), &HashSet::new());
        let fourth = write(dir.path());
        std::fs::write(output::path(dir.path(), fourth), vec![b'x'; 400 << 10]).unwrap();
        next.retire(fourth, now);
        next.sweep(now);
        let left = [second, third].map(|id| exists(dir.path(), id));
        assert_eq!(left.iter().filter(|left| **left).count(), 1);
        assert!(exists(dir.path(), fourth));
    }

    #[test]
    fn one_sweep_deletes_a_bounded_number_of_logs() {
        let dir = tempfile::tempdir().unwrap();
        let logs = open(dir.path(), &HashSet::new());
        let now = Instant::now();
        for _ in 0..MAX_STEP + 10 {
            logs.retire(SpawnId::mint(), now);
        }
        logs.sweep(now + BOUNDS.age);
        assert!(logs.has_old(now + BOUNDS.age));
        logs.sweep(now + BOUNDS.age);
        assert!(!logs.has_old(now + BOUNDS.age));
    }

    #[test]
    fn what_earlier_agents_left_is_kept_within_the_same_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let old = write(dir.path());
        let path = output::path(dir.path(), old);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - 2 * BOUNDS.age).unwrap();
        let fresh = write(dir.path());
        let living = write(dir.path());
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let logs = open(dir.path(), &HashSet::from([living]));
        assert!(!exists(dir.path(), old));
        assert!(exists(dir.path(), fresh));
        logs.sweep(Instant::now() + BOUNDS.age);
        assert!(!exists(dir.path(), fresh));
        assert!(dir.path().join("notes.txt").exists() && exists(dir.path(), living));
    }
}
