//! The last events, so that a subscriber that was cut off for a moment can go on without a call to the registry.

use std::collections::VecDeque;
use std::sync::Arc;

use model::{Event, Owner};

/// Events kept: a few seconds of a busy farm, hours of a quiet one.
const MAX_EVENTS: usize = 10_000;

/// An event, and the owner of its spawn.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    pub(crate) event: Arc<Event>,
    pub(crate) owner: Option<Owner>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The last event that is not here; every event after it is.
    before: u64,
    /// The owners of all events after this one are known.
    known: u64,
    events: VecDeque<Owned>,
}

impl Ring {
    /// Empty, and complete after this event. What is added may be of before it, too.
    pub(crate) fn after_event(before: u64) -> Self {
        Self { before, known: before, events: VecDeque::new() }
    }

    /// Adds the next event.
    pub(crate) fn push(&mut self, event: Arc<Event>, owner: Option<Owner>) {
        if self.events.len() == MAX_EVENTS
            && let Some(old) = self.events.pop_front()
        {
            self.before = self.before.max(old.event.seq);
        }
        self.events.push_back(Owned { event, owner });
    }

    /// Adds the next event, of a spawn whose owner is not known.
    pub(crate) fn push_unowned(&mut self, event: Arc<Event>) {
        self.known = event.seq;
        self.push(event, None);
    }

    /// All events after this one; `None` when some of them are not here any more, or when there is no such event: numbers
    /// come from clocks, so one of another registry may lie between those of this one.
    pub(crate) fn since(&self, seq: u64) -> Option<impl Iterator<Item = &Owned>> {
        let from = self.events.partition_point(|owned| owned.event.seq <= seq);
        let last = from.checked_sub(1).map_or(self.before, |at| self.events[at].event.seq.max(self.before));
        (seq == last || (from > 0 && self.events[from - 1].event.seq == seq))
            .then(|| self.events.range(from..))
    }

    /// The same for a subscriber that hears of one owner's spawns; `None` also when the owners are not known.
    pub(crate) fn owned_since(&self, seq: u64) -> Option<impl Iterator<Item = &Owned>> {
        self.since(seq).filter(|_| seq >= self.known)
    }
}

#[cfg(test)]
mod tests {
    use model::{EventKind, Timestamp};
    use serde_json::Map;

    use super::*;

    #[test]
    fn it_knows_what_it_has_and_what_it_has_not() {
        let mut ring = Ring::after_event(100);
        let seqs =
            |ring: &Ring, seq| ring.since(seq).map(|events| events.map(|e| e.event.seq).collect::<Vec<_>>());
        assert_eq!((seqs(&ring, 99), seqs(&ring, 100)), (None, Some(vec![])));
        let event = |seq| {
            let (at, kind) = (Timestamp::default(), EventKind::NodeUp);
            Arc::new(Event { seq, at, kind, node: None, spawn: None, data: Map::new() })
        };
        let most = u64::try_from(MAX_EVENTS).unwrap();
        for seq in 1..=most {
            ring.push(event(100 + 2 * seq), None);
        }
        assert_eq!(seqs(&ring, 100).unwrap().len(), MAX_EVENTS);
        assert_eq!(seqs(&ring, 103), None, "a number between two events is of another registry");
        assert_eq!(seqs(&ring, 100 + 2 * most - 4), Some(vec![100 + 2 * most - 2, 100 + 2 * most]));
        ring.push(event(1_000_000), None);
        assert_eq!(seqs(&ring, 100), None, "the oldest is gone");
        assert_eq!(seqs(&ring, 102).unwrap().len(), MAX_EVENTS);
        assert_eq!(seqs(&ring, 1_000_000), Some(vec![]));
    }
    #[test]
    fn a_subscriber_to_its_own_spawns_gets_none_of_an_unknown_owner() {
        let event = |seq| {
            let (at, kind) = (Timestamp::default(), EventKind::SpawnExited);
            Arc::new(Event { seq, at, kind, node: None, spawn: None, data: Map::new() })
        };
        let mut ring = Ring::after_event(1);
        ring.push(event(2), "key:a".parse().ok());
        ring.push_unowned(event(3));
        ring.push(event(4), None);
        assert_eq!(ring.since(1).unwrap().count(), 3);
        assert!(ring.owned_since(2).is_none());
        assert_eq!(ring.owned_since(3).unwrap().count(), 1);
    }
}
