//! How long the output of ended spawns is kept.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use model::SpawnId;
use tokio::time::Instant;

use crate::spawn::output;

const KEEP_FOR: Duration = Duration::from_secs(3600);
const MAX_KEPT: usize = 500;
/// Most files of earlier lives that are looked at.
const MAX_SCANNED: usize = 20_000;

/// The files of ended spawns, the oldest first.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
    /// Held for a moment, never across an await.
    ended: Mutex<VecDeque<(Instant, SpawnId)>>,
}

impl Logs {
    /// Takes over what earlier agents left in `dir`; what belongs to the `living` is not touched.
    pub(crate) fn open(dir: PathBuf, living: &HashSet<SpawnId>) -> Self {
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
                let id = id_of(&entry.file_name().into_string().ok()?).filter(|id| !living.contains(id))?;
                let age = now.duration_since(entry.metadata().ok()?.modified().ok()?).unwrap_or_default();
                Some((age, id))
            })
            .collect();
        found.sort_unstable();
        let at = Instant::now();
        let logs = Self { dir, ended: Mutex::new(VecDeque::new()) };
        for (i, (age, id)) in found.into_iter().enumerate() {
            match at.checked_sub(age) {
                Some(since) if age < KEEP_FOR && i < MAX_KEPT => logs.lock().push_front((since, id)),
                Some(_) | None => logs.delete(id),
            }
        }
        logs
    }

    /// Its spawn has ended.
    pub(crate) fn retire(&self, id: SpawnId, now: Instant) {
        self.lock().push_back((now, id));
    }

    /// Its spawn was never started. Blocks.
    pub(crate) fn discard(&self, id: SpawnId) {
        self.delete(id);
    }

    /// Whether there is something for [`Logs::sweep`] to do.
    pub(crate) fn has_old(&self, now: Instant) -> bool {
        is_over(&self.lock(), now)
    }

    /// Deletes what is too old or too much. Blocks.
    pub(crate) fn sweep(&self, now: Instant) {
        loop {
            let mut ended = self.lock();
            let over = is_over(&ended, now);
            let victim = if over { ended.pop_front() } else { None };
            drop(ended);
            match victim {
                Some((_, id)) => self.delete(id),
                None => return,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, SpawnId)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delete(&self, id: SpawnId) {
        delete(&output::path(&self.dir, id));
    }
}

fn is_over(ended: &VecDeque<(Instant, SpawnId)>, now: Instant) -> bool {
    ended.len() > MAX_KEPT
        || ended.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= KEEP_FOR)
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

    #[test]
    fn logs_go_when_they_are_old_or_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().to_owned(), &HashSet::new());
        let now = Instant::now();
        let first = write(dir.path());
        logs.retire(first, now);
        for _ in 0..MAX_KEPT - 1 {
            logs.retire(SpawnId::mint(), now);
        }
        assert!(exists(dir.path(), first));
        let last = write(dir.path());
        logs.retire(last, now);
        assert!(logs.has_old(now));
        logs.sweep(now);
        assert!(!logs.has_old(now) && !exists(dir.path(), first));
        logs.sweep(now + KEEP_FOR);
        assert!(!exists(dir.path(), last));
    }

    #[test]
    fn what_earlier_agents_left_is_kept_within_the_same_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let old = write(dir.path());
        let path = output::path(dir.path(), old);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - 2 * KEEP_FOR).unwrap();
        let fresh = write(dir.path());
        let living = write(dir.path());
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let logs = Logs::open(dir.path().to_owned(), &HashSet::from([living]));
        assert!(!exists(dir.path(), old));
        assert!(exists(dir.path(), fresh));
        logs.sweep(Instant::now() + KEEP_FOR);
        assert!(!exists(dir.path(), fresh));
        assert!(dir.path().join("notes.txt").exists() && exists(dir.path(), living));
    }
}
