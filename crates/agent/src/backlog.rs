//! Changes that the registry has not accepted yet, in order and numbered.

use std::collections::VecDeque;

use model::SpawnState;
use registry::Change;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::spawn::Snapshot;

/// Most changes kept while the registry is away.
const MOST: usize = 100_000;

/// One change, not told yet.
#[derive(Debug)]
pub(crate) struct Pending {
    serial: u64,
    at: Instant,
    pub(crate) spawn: Snapshot,
}

impl Pending {
    pub(crate) fn change(&self, now: Instant) -> Change {
        Change {
            serial: self.serial,
            spawn: self.spawn.report(now),
            age: now.saturating_duration_since(self.at),
        }
    }
}

/// The changes, the oldest first.
#[derive(Debug)]
pub(crate) struct Backlog {
    changes: VecDeque<Pending>,
    /// Those who wait until a change was accepted, by its number.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    /// The last number given out.
    serial: u64,
    /// The last number accepted.
    accepted: u64,
    /// Changes dropped because there were too many.
    dropped: u64,
    most: usize,
}

impl Backlog {
    pub(crate) fn new() -> Self {
        Self::bounded(MOST)
    }

    fn bounded(most: usize) -> Self {
        Self { changes: VecDeque::new(), waiting: Vec::new(), serial: 0, accepted: 0, dropped: 0, most }
    }

    /// Adds a change. When there is no room the oldest that is not an end is dropped: ends must be told.
    pub(crate) fn push(&mut self, spawn: Snapshot, at: Instant) -> u64 {
        if self.changes.len() >= self.most {
            let victim = self.changes.iter().position(|c| c.spawn.state != SpawnState::Exited).unwrap_or(0);
            self.changes.remove(victim);
            self.dropped += 1;
        }
        self.serial += 1;
        self.changes.push_back(Pending { serial: self.serial, at, spawn });
        self.serial
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The oldest changes, at most this many.
    pub(crate) fn first(&self, most: usize) -> impl Iterator<Item = &Pending> {
        self.changes.iter().take(most)
    }

    /// Takes out what was accepted, up to and including this number.
    pub(crate) fn accept(&mut self, serial: u64) -> Vec<Pending> {
        self.accepted = self.accepted.max(serial);
        let count = self.changes.iter().take_while(|c| c.serial <= serial).count();
        let accepted = self.changes.drain(..count).collect();
        // One long outage must not leave an allocation for ever.
        if self.changes.is_empty() && self.changes.capacity() > 4096 {
            self.changes = VecDeque::new();
        }
        let (done, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(s, _)| *s <= serial);
        self.waiting = waiting;
        for (_, told) in done {
            // Whoever waited may have gone away meanwhile.
            told.send(()).ok();
        }
        accepted
    }

    /// Tells when this change was accepted; at once when it was already.
    pub(crate) fn wait_for(&mut self, serial: u64) -> Option<oneshot::Receiver<()>> {
        if serial <= self.accepted {
            return None;
        }
        self.waiting.retain(|(_, told)| !told.is_closed());
        let (told, wait) = oneshot::channel();
        self.waiting.push((serial, told));
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use model::{RendererType, SpawnId};

    use super::*;
    use crate::spawn::Facts;

    fn spawn(state: SpawnState) -> Snapshot {
        let facts = Facts {
            id: SpawnId::mint(),
            renderer: RendererType::Csr,
            port: 1,
            endpoint: String::new(),
            gpu: None,
            labels: BTreeMap::new(),
            owner: None,
            started: Instant::now(),
        };
        Snapshot { state, ..Snapshot::new(Arc::new(facts)) }
    }

    fn serials(backlog: &Backlog) -> Vec<u64> {
        backlog.first(usize::MAX).map(|c| c.serial).collect()
    }

    #[test]
    fn a_full_backlog_keeps_the_ends() {
        let mut backlog = Backlog::bounded(3);
        let now = Instant::now();
        for state in [SpawnState::Exited, SpawnState::Launching, SpawnState::Ready, SpawnState::Exited] {
            backlog.push(spawn(state), now);
        }
        assert_eq!(serials(&backlog), [1, 3, 4]);
        backlog.push(spawn(SpawnState::Exited), now);
        assert_eq!(serials(&backlog), [1, 4, 5]);
        backlog.push(spawn(SpawnState::Exited), now);
        assert_eq!(serials(&backlog), [4, 5, 6]);
        assert_eq!(backlog.dropped(), 3);
    }

    #[test]
    fn those_who_wait_are_told_when_their_change_was_accepted() {
        let mut backlog = Backlog::bounded(10);
        let now = Instant::now();
        let first = backlog.push(spawn(SpawnState::Ready), now);
        let second = backlog.push(spawn(SpawnState::Ready), now);
        let mut one = backlog.wait_for(first).unwrap();
        let mut two = backlog.wait_for(second).unwrap();
        assert_eq!(backlog.accept(first).len(), 1);
        assert!(one.try_recv().is_ok());
        assert!(two.try_recv().is_err());
        assert!(backlog.wait_for(first).is_none());
        backlog.accept(second);
        assert!(two.try_recv().is_ok());
        assert_eq!(backlog.len(), 0);
    }
}
