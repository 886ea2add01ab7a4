//! The limit of connections to the receiver: every spawn has permits of its own, and all others share a few.
//!
//! A connection begins as a stranger. With the first right report it becomes its spawn's, and no stranger can take its permit any
//! more. When all permits of strangers are taken, the one that has been a stranger longest makes room: a server reports as soon as
//! it has connected, so holding connections gains nothing. A spawn has [`MAX_PER_SPAWN`] permits, so it can take none of another spawn's.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SpawnId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A server has one, and one more while it is being replaced.
const MAX_PER_SPAWN: usize = 4;

#[derive(Debug)]
pub(super) struct ConnectionLimit {
    max_strangers: usize,
    /// Held for a moment, never across an await.
    permits: Mutex<Permits>,
}

#[derive(Debug, Default)]
struct Permits {
    next: u64,
    /// The oldest first.
    strangers: BTreeMap<u64, Holder>,
    known: HashMap<SpawnId, BTreeMap<u64, Holder>>,
}

#[derive(Debug)]
struct Holder {
    since: Instant,
    leave: CancellationToken,
}

/// The permit of one connection; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<ConnectionLimit>,
    number: u64,
    spawn: Option<SpawnId>,
    /// Cancelled when the connection must close to make limit.
    pub(super) leave: CancellationToken,
}

impl ConnectionLimit {
    pub(super) fn new(max_strangers: usize) -> Arc<Self> {
        Arc::new(Self { max_strangers: max_strangers.max(1), permits: Mutex::default() })
    }

    /// A permit for a new connection. Also returns how long the stranger had been there that makes room for it, if one does.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> (Permit, Option<Duration>) {
        let mut permits = self.lock();
        let evicted = match permits.strangers.len() >= self.max_strangers {
            true => permits.strangers.pop_first(),
            false => None,
        };
        let evicted = evicted.map(|(_, holder)| {
            holder.leave.cancel();
            now.saturating_duration_since(holder.since)
        });
        permits.next += 1;
        let (number, leave) = (permits.next, CancellationToken::new());
        permits.strangers.insert(number, Holder { since: now, leave: leave.clone() });
        drop(permits);
        (Permit { limit: Arc::clone(self), number, spawn: None, leave }, evicted)
    }

    fn lock(&self) -> MutexGuard<'_, Permits> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permits {
    fn remove(&mut self, number: u64, spawn: Option<SpawnId>) -> Option<Holder> {
        let Some(spawn) = spawn else { return self.strangers.remove(&number) };
        let of_spawn = self.known.get_mut(&spawn)?;
        let holder = of_spawn.remove(&number);
        if of_spawn.is_empty() {
            self.known.remove(&spawn);
        }
        holder
    }
}

impl Permit {
    /// The connection has brought a right report of this spawn.
    pub(super) fn identify(&mut self, spawn: SpawnId) {
        if self.spawn == Some(spawn) {
            return;
        }
        let mut permits = self.limit.lock();
        // One that must leave has no permit any more, and gets none.
        let Some(holder) = permits.remove(self.number, self.spawn) else { return };
        let of_spawn = permits.known.entry(spawn).or_default();
        if of_spawn.len() >= MAX_PER_SPAWN
            && let Some((_, oldest)) = of_spawn.pop_first()
        {
            oldest.leave.cancel();
        }
        of_spawn.insert(self.number, holder);
        self.spawn = Some(spawn);
    }

    /// The connection has brought a report that is not right: its spawn has ended, or it reports for another one.
    pub(super) fn lose_identity(&mut self, now: Instant) {
        if self.spawn.is_none() {
            return;
        }
        let mut permits = self.limit.lock();
        if let Some(holder) = permits.remove(self.number, self.spawn) {
            permits.next += 1;
            self.number = permits.next;
            permits.strangers.insert(self.number, Holder { since: now, ..holder });
        }
        self.spawn = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.lock().remove(self.number, self.spawn);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strangers_make_room_for_strangers_the_oldest_first() {
        let (limit, start) = (ConnectionLimit::new(2), Instant::now());
        let (first, none) = limit.enter(start);
        assert_eq!(none, None);
        let (second, _) = limit.enter(start);
        let (third, evicted) = limit.enter(start + Duration::from_secs(3));
        assert_eq!(evicted, Some(Duration::from_secs(3)));
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled() && !third.leave.is_cancelled());
        drop(second);
        assert_eq!(limit.enter(start).1, None, "a permit was given back");
    }

    #[test]
    fn no_stranger_takes_the_permit_of_a_spawn() {
        let (limit, now, id) = (ConnectionLimit::new(1), Instant::now(), SpawnId::mint());
        let (mut server, _) = limit.enter(now);
        server.identify(id);
        let strangers: Vec<Permit> = (0..100).map(|_| limit.enter(now).0).collect();
        assert!(!server.leave.is_cancelled());
        assert_eq!(strangers.iter().filter(|permit| !permit.leave.is_cancelled()).count(), 1);
        server.lose_identity(now);
        assert!(!server.leave.is_cancelled());
        limit.enter(now);
        assert!(strangers.iter().all(|permit| permit.leave.is_cancelled()));
        limit.enter(now);
        assert!(server.leave.is_cancelled(), "a stranger again");
    }

    #[test]
    fn a_spawn_has_only_so_many_permits() {
        let (limit, now) = (ConnectionLimit::new(3), Instant::now());
        let (greedy, modest) = (SpawnId::mint(), SpawnId::mint());
        let known = |id| {
            let (mut permit, _) = limit.enter(now);
            permit.identify(id);
            permit
        };
        let other = known(modest);
        let held: Vec<Permit> = (0..20).map(|_| known(greedy)).collect();
        assert_eq!(held.iter().filter(|permit| !permit.leave.is_cancelled()).count(), MAX_PER_SPAWN);
        assert!(!other.leave.is_cancelled());
    }

    proptest! {
        #[test]
        fn every_permit_is_given_back(steps in prop::collection::vec((0u8..5, any::<usize>()), 1..200)) {
            let (limit, now) = (ConnectionLimit::new(3), Instant::now());
            let ids = [SpawnId::mint(), SpawnId::mint()];
            let mut held: Vec<Permit> = Vec::new();
            for (what, pick) in steps {
                let at = pick % held.len().max(1);
                match (what, held.get_mut(at)) {
                    (0, _) | (_, None) => held.push(limit.enter(now).0),
                    (1 | 2, Some(permit)) => permit.identify(ids[usize::from(what) - 1]),
                    (3, Some(permit)) => permit.lose_identity(now),
                    (_, Some(_)) => drop(held.swap_remove(at)),
                }
                let permits = limit.lock();
                prop_assert!(permits.strangers.len() <= 3 + held.len());
                prop_assert!(permits.known.values().all(|of| of.len() <= MAX_PER_SPAWN));
            }
            held.clear();
            let permits = limit.lock();
            prop_assert!(permits.strangers.is_empty() && permits.known.is_empty());
        }
    }
}
