//! Who may hold a connection to the receiver: every spawn has places of its own, and all others share a few.
//!
//! A connection begins as a stranger. With the first right report it becomes its spawn's, and no stranger can take its place any
//! more. When all places of strangers are taken, the one that has been a stranger longest makes room: a server reports as soon as
//! it has connected, so holding connections gains nothing. A spawn has [`MAX_PER_SPAWN`] places, so it can hold none of others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SpawnId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A server has one, and one more while it is being replaced.
const MAX_PER_SPAWN: usize = 4;

/// All places.
#[derive(Debug)]
pub(super) struct Room {
    max_strangers: usize,
    /// Held for a moment, never across an await.
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// The oldest first.
    strangers: BTreeMap<u64, Guest>,
    known: HashMap<SpawnId, BTreeMap<u64, Guest>>,
}

#[derive(Debug)]
struct Guest {
    since: Instant,
    leave: CancellationToken,
}

/// The place of one connection; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    number: u64,
    spawn: Option<SpawnId>,
    /// Cancelled when the connection must close to make room.
    pub(super) leave: CancellationToken,
}

impl Room {
    pub(super) fn new(max_strangers: usize) -> Arc<Self> {
        Arc::new(Self { max_strangers: max_strangers.max(1), places: Mutex::default() })
    }

    /// A place for a new connection. Also returns how long the stranger had been there that makes room for it, if one does.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> (Place, Option<Duration>) {
        let mut places = self.lock();
        let evicted = match places.strangers.len() >= self.max_strangers {
            true => places.strangers.pop_first(),
            false => None,
        };
        let evicted = evicted.map(|(_, guest)| {
            guest.leave.cancel();
            now.saturating_duration_since(guest.since)
        });
        places.next += 1;
        let (number, leave) = (places.next, CancellationToken::new());
        places.strangers.insert(number, Guest { since: now, leave: leave.clone() });
        drop(places);
        (Place { room: Arc::clone(self), number, spawn: None, leave }, evicted)
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn remove(&mut self, number: u64, spawn: Option<SpawnId>) -> Option<Guest> {
        let Some(spawn) = spawn else { return self.strangers.remove(&number) };
        let of_spawn = self.known.get_mut(&spawn)?;
        let guest = of_spawn.remove(&number);
        if of_spawn.is_empty() {
            self.known.remove(&spawn);
        }
        guest
    }
}

impl Place {
    /// The connection has brought a right report of this spawn.
    pub(super) fn belongs_to(&mut self, spawn: SpawnId) {
        if self.spawn == Some(spawn) {
            return;
        }
        let mut places = self.room.lock();
        // One that must leave has no place any more, and gets none.
        let Some(guest) = places.remove(self.number, self.spawn) else { return };
        let of_spawn = places.known.entry(spawn).or_default();
        if of_spawn.len() >= MAX_PER_SPAWN
            && let Some((_, oldest)) = of_spawn.pop_first()
        {
            oldest.leave.cancel();
        }
        of_spawn.insert(self.number, guest);
        self.spawn = Some(spawn);
    }

    /// The connection has brought a report that is not right: its spawn has ended, or it reports for another one.
    pub(super) fn belongs_to_nobody(&mut self, now: Instant) {
        if self.spawn.is_none() {
            return;
        }
        let mut places = self.room.lock();
        if let Some(guest) = places.remove(self.number, self.spawn) {
            places.next += 1;
            self.number = places.next;
            places.strangers.insert(self.number, Guest { since: now, ..guest });
        }
        self.spawn = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().remove(self.number, self.spawn);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strangers_make_room_for_strangers_the_oldest_first() {
        let (room, start) = (Room::new(2), Instant::now());
        let (first, none) = room.enter(start);
        assert_eq!(none, None);
        let (second, _) = room.enter(start);
        let (third, evicted) = room.enter(start + Duration::from_secs(3));
        assert_eq!(evicted, Some(Duration::from_secs(3)));
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled() && !third.leave.is_cancelled());
        drop(second);
        assert_eq!(room.enter(start).1, None, "a place was given back");
    }

    #[test]
    fn no_stranger_takes_the_place_of_a_spawn() {
        let (room, now, id) = (Room::new(1), Instant::now(), SpawnId::mint());
        let (mut server, _) = room.enter(now);
        server.belongs_to(id);
        let strangers: Vec<Place> = (0..100).map(|_| room.enter(now).0).collect();
        assert!(!server.leave.is_cancelled());
        assert_eq!(strangers.iter().filter(|place| !place.leave.is_cancelled()).count(), 1);
        server.belongs_to_nobody(now);
        assert!(!server.leave.is_cancelled());
        room.enter(now);
        assert!(strangers.iter().all(|place| place.leave.is_cancelled()));
        room.enter(now);
        assert!(server.leave.is_cancelled(), "a stranger again");
    }

    #[test]
    fn a_spawn_has_only_so_many_places() {
        let (room, now) = (Room::new(3), Instant::now());
        let (greedy, modest) = (SpawnId::mint(), SpawnId::mint());
        let known = |id| {
            let (mut place, _) = room.enter(now);
            place.belongs_to(id);
            place
        };
        let other = known(modest);
        let held: Vec<Place> = (0..20).map(|_| known(greedy)).collect();
        assert_eq!(held.iter().filter(|place| !place.leave.is_cancelled()).count(), MAX_PER_SPAWN);
        assert!(!other.leave.is_cancelled());
    }

    proptest! {
        #[test]
        fn every_place_is_given_back(steps in prop::collection::vec((0u8..5, any::<usize>()), 1..200)) {
            let (room, now) = (Room::new(3), Instant::now());
            let ids = [SpawnId::mint(), SpawnId::mint()];
            let mut held: Vec<Place> = Vec::new();
            for (what, pick) in steps {
                let at = pick % held.len().max(1);
                match (what, held.get_mut(at)) {
                    (0, _) | (_, None) => held.push(room.enter(now).0),
                    (1 | 2, Some(place)) => place.belongs_to(ids[usize::from(what) - 1]),
                    (3, Some(place)) => place.belongs_to_nobody(now),
                    (_, Some(_)) => drop(held.swap_remove(at)),
                }
                let places = room.lock();
                prop_assert!(places.strangers.len() <= 3 + held.len());
                prop_assert!(places.known.values().all(|of| of.len() <= MAX_PER_SPAWN));
            }
            held.clear();
            let places = room.lock();
            prop_assert!(places.strangers.is_empty() && places.known.is_empty());
        }
    }
}
