//! Changes that the registry has not accepted yet, in order and numbered.
//!
//! ```text
//! push ─▶ pending (numbered, in order) ─▶ accept(serial) ─▶ ended spawns are kept for a while ─▶ forgotten
//!              ▲                                                       │
//!              └────────────── report_again(after): the registry was set back ──┘
//! ```
//!
//! It is bounded: while the registry is away the oldest changes are dropped, but ends last. A dropped change is repaired by the next heartbeat,
//! which has every living spawn; an end is in no heartbeat.

use std::collections::VecDeque;
use std::time::Duration;

use model::{Origin, SpawnId, SpawnState};
use registry::Change;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::spawn::SpawnStatus;

/// Changes that are kept while the registry is away.
const MAX_CHANGES: usize = 100_000;

/// How long and how many accepted ends are kept, for a registry that comes back from an older state.
const KEEP_ENDS_FOR: Duration = Duration::from_secs(600);
const MAX_KEPT_ENDS: usize = 1_000;

/// One change that the registry has not accepted.
#[derive(Debug)]
pub(crate) struct Pending {
    serial: u64,
    at: Instant,
    pub(crate) spawn: SpawnStatus,
}

impl Pending {
    /// As it is sent. The request that the spawn comes from goes with its beginning, and with its end, which is in no heartbeat: the
    /// registry keeps it, and heartbeats repair it.
    pub(crate) fn change(&self, now: Instant) -> Change {
        let mut spawn = self.spawn.report(now);
        if !matches!(spawn.state, SpawnState::Launching | SpawnState::Exited) {
            spawn.origin = Origin::default();
        }
        Change { serial: self.serial, spawn, age: now.saturating_duration_since(self.at) }
    }
}

/// The changes, the oldest first.
#[derive(Debug)]
pub(crate) struct Backlog {
    changes: VecDeque<Pending>,
    /// Callers that wait for a change to be accepted, by its number.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    /// The last number given out.
    serial: u64,
    /// The last number accepted.
    accepted: u64,
    /// Changes dropped because there were too many.
    dropped: u64,
    /// Ends that were accepted, each with when; the oldest first.
    ends: VecDeque<(Instant, Pending)>,
    max: usize,
}

impl Backlog {
    pub(crate) fn new() -> Self {
        Self::bounded(MAX_CHANGES)
    }

    fn bounded(max: usize) -> Self {
        Self {
            changes: VecDeque::new(),
            waiting: Vec::new(),
            serial: 0,
            accepted: 0,
            dropped: 0,
            ends: VecDeque::new(),
            max,
        }
    }

    /// Adds a change. When there is no room the oldest that is not an end is dropped: an end is in no heartbeat, so nothing else would report it.
    pub(crate) fn push(&mut self, spawn: SpawnStatus, at: Instant) -> u64 {
        if self.changes.len() >= self.max {
            let oldest = self.changes.iter().position(|c| c.spawn.state != SpawnState::Exited).unwrap_or(0);
            self.changes.remove(oldest);
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
    pub(crate) fn first(&self, max: usize) -> impl Iterator<Item = &Pending> {
        self.changes.iter().take(max)
    }

    /// Takes out what was accepted, up to and including this number. Returns the spawns that ended.
    pub(crate) fn accept(&mut self, serial: u64, now: Instant) -> Vec<SpawnId> {
        self.accepted = self.accepted.max(serial);
        let count = self.changes.iter().take_while(|c| c.serial <= serial).count();
        let mut ended = Vec::new();
        for change in self.changes.drain(..count) {
            if change.spawn.state == SpawnState::Exited {
                ended.push(change.spawn.facts.id);
                self.ends.push_back((now, change));
            }
        }
        self.forget_ends(now);
        // One long outage must not leave an allocation for ever.
        if self.changes.is_empty() && self.changes.capacity() > 4096 {
            self.changes = VecDeque::new();
        }
        let (done, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(s, _)| *s <= serial);
        self.waiting = waiting;
        for (_, acknowledged) in done {
            // The caller that waited may have left meanwhile.
            acknowledged.send(()).ok();
        }
        ended
    }

    /// Puts accepted ends after this number back, in order: the registry has lost them.
    pub(crate) fn report_again(&mut self, after: u64, now: Instant) {
        self.forget_ends(now);
        let from = self.ends.partition_point(|(_, end)| end.serial <= after);
        for (_, end) in self.ends.drain(from..).rev() {
            self.changes.push_front(end);
        }
    }

    fn forget_ends(&mut self, now: Instant) {
        while let Some((accepted, _)) = self.ends.front()
            && (self.ends.len() > MAX_KEPT_ENDS || now.saturating_duration_since(*accepted) >= KEEP_ENDS_FOR)
        {
            self.ends.pop_front();
        }
    }

    /// Resolves when change `serial` is accepted; `None` when it was already.
    pub(crate) fn wait_for(&mut self, serial: u64) -> Option<oneshot::Receiver<()>> {
        if serial <= self.accepted {
            return None;
        }
        self.waiting.retain(|(_, acknowledged)| !acknowledged.is_closed());
        let (acknowledged, wait) = oneshot::channel();
        self.waiting.push((serial, acknowledged));
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

    fn spawn(state: SpawnState) -> SpawnStatus {
        let facts = Facts {
            id: SpawnId::mint(),
            renderer: RendererType::Csr,
            port: 1,
            endpoint: String::new(),
            gpu: None,
            labels: BTreeMap::new(),
            tags: BTreeMap::new(),
            owner: None,
            origin: Default::default(),
            secret: None,
            token: None,
            endpoint_form: None,
            user: None,
            started: Instant::now(),
            server: None,
            max_idle: None,
        };
        SpawnStatus { state, ..SpawnStatus::new(Arc::new(facts)) }
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
    fn waiters_learn_when_their_change_was_accepted() {
        let mut backlog = Backlog::bounded(10);
        let now = Instant::now();
        let first = backlog.push(spawn(SpawnState::Ready), now);
        let second = backlog.push(spawn(SpawnState::Ready), now);
        let mut one = backlog.wait_for(first).unwrap();
        let mut two = backlog.wait_for(second).unwrap();
        assert!(backlog.accept(first, now).is_empty(), "it has not ended");
        assert!(one.try_recv().is_ok());
        assert!(two.try_recv().is_err());
        assert!(backlog.wait_for(first).is_none());
        backlog.accept(second, now);
        assert!(two.try_recv().is_ok());
        assert_eq!(backlog.len(), 0);
    }

    #[test]
    fn ends_that_the_registry_has_lost_are_reported_again_in_order() {
        let mut backlog = Backlog::bounded(10);
        let now = Instant::now();
        for state in [SpawnState::Exited, SpawnState::Ready, SpawnState::Exited, SpawnState::Exited] {
            backlog.push(spawn(state), now);
        }
        assert_eq!(backlog.accept(3, now).len(), 2);
        backlog.push(spawn(SpawnState::Ready), now);
        backlog.report_again(1, now);
        assert_eq!(serials(&backlog), [3, 4, 5]);
        assert_eq!(backlog.accept(5, now).len(), 2);
        backlog.report_again(0, now);
        assert_eq!(serials(&backlog), [1, 3, 4], "those that were reported again are kept again");
        backlog.accept(4, now);
        backlog.report_again(0, now + KEEP_ENDS_FOR);
        assert_eq!(serials(&backlog), [0; 0], "long ago");
        for _ in 0..MAX_KEPT_ENDS + 5 {
            let serial = backlog.push(spawn(SpawnState::Exited), now);
            backlog.accept(serial, now);
        }
        assert_eq!(backlog.ends.len(), MAX_KEPT_ENDS);
    }
}
