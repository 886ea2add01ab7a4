//! What is remembered of spawns that are gone: ids that must not start again ([`Tombstones`]), and answers for repeated requests
//! ([`Recent`]). Both are bounded in time and number.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use model::SpawnId;
use tokio::time::Instant;

/// Longer than any reservation: a request for one of these ids that is still on its way must start nothing.
const TOMBSTONE_FOR: Duration = Duration::from_secs(600);
const MAX_TOMBSTONES: usize = 100_000;
/// How long the same answer is given again, and an ended spawn is listed.
const RECENT_FOR: Duration = Duration::from_secs(60);
const MAX_RECENT: usize = 1_000;

/// Ids that can not be started any more.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    since: HashMap<SpawnId, Instant>,
    order: VecDeque<(Instant, SpawnId)>,
}

impl Tombstones {
    pub(crate) fn add(&mut self, id: SpawnId, now: Instant) {
        // Asking again prolongs nothing: the request it is for was made before the first time.
        if self.since.contains_key(&id) {
            return;
        }
        self.forget(now);
        self.since.insert(id, now);
        self.order.push_back((now, id));
    }

    pub(crate) fn contains(&mut self, id: SpawnId, now: Instant) -> bool {
        self.forget(now);
        self.since.contains_key(&id)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, id)) = self.order.front()
            && (now.saturating_duration_since(*since) >= TOMBSTONE_FOR || self.order.len() >= MAX_TOMBSTONES)
        {
            self.since.remove(id);
            self.order.pop_front();
        }
    }
}

/// Spawns that ended a short while ago.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    entries: HashMap<SpawnId, T>,
    order: VecDeque<(Instant, SpawnId)>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Recent<T> {
    pub(crate) fn add(&mut self, id: SpawnId, entry: T, now: Instant) {
        self.forget(now);
        if self.entries.insert(id, entry).is_none() {
            self.order.push_back((now, id));
        }
    }

    pub(crate) fn get(&mut self, id: SpawnId, now: Instant) -> Option<&T> {
        self.forget(now);
        self.entries.get(&id)
    }

    pub(crate) fn all(&mut self, now: Instant) -> impl Iterator<Item = &T> {
        self.forget(now);
        self.entries.values()
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, id)) = self.order.front()
            && (now.saturating_duration_since(*since) >= RECENT_FOR || self.order.len() >= MAX_RECENT)
        {
            self.entries.remove(id);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_lasts_its_time_however_often_it_is_set() {
        let mut tombstones = Tombstones::default();
        let (id, start) = (SpawnId::mint(), Instant::now());
        tombstones.add(id, start);
        tombstones.add(id, start + TOMBSTONE_FOR / 2);
        assert!(tombstones.contains(id, start + TOMBSTONE_FOR - Duration::from_secs(1)));
        assert!(!tombstones.contains(id, start + TOMBSTONE_FOR));
        assert!(!tombstones.contains(SpawnId::mint(), start));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut tombstones, mut recent, now) = (Tombstones::default(), Recent::default(), Instant::now());
        let ids: Vec<SpawnId> = (0..MAX_TOMBSTONES + 10).map(|_| SpawnId::mint()).collect();
        for id in &ids {
            tombstones.add(*id, now);
            recent.add(*id, (), now);
        }
        assert!(tombstones.since.len() <= MAX_TOMBSTONES);
        assert_eq!(tombstones.since.len(), tombstones.order.len());
        assert!(recent.all(now).count() <= MAX_RECENT);
        assert!(recent.get(ids[ids.len() - 1], now).is_some());
        assert!(recent.get(ids[0], now).is_none());
    }
}
