//! The events of the last moments, so that whoever was away for a moment can go on without asking the registry.

use std::collections::VecDeque;
use std::sync::Arc;

use model::Event;

/// Most events kept: a few seconds of a busy farm, hours of a quiet one.
const MOST: usize = 10_000;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Every event after this one is here.
    floor: u64,
    events: VecDeque<Arc<Event>>,
}

impl Ring {
    /// Empty, and complete from this event on.
    pub(crate) fn after_event(floor: u64) -> Self {
        Self { floor, events: VecDeque::new() }
    }

    /// Adds the next event.
    pub(crate) fn push(&mut self, event: Arc<Event>) {
        if self.events.len() == MOST
            && let Some(old) = self.events.pop_front()
        {
            self.floor = old.seq;
        }
        self.events.push_back(event);
    }

    /// All events after this one; `None` when some of them are not here any more.
    pub(crate) fn since(&self, seq: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let from = self.events.partition_point(|event| event.seq <= seq);
        (seq >= self.floor).then(|| self.events.range(from..))
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
        let seqs = |ring: &Ring, seq| ring.since(seq).map(|events| events.map(|e| e.seq).collect::<Vec<_>>());
        assert_eq!((seqs(&ring, 99), seqs(&ring, 100)), (None, Some(vec![])));
        let event = |seq| {
            let (at, kind) = (Timestamp::default(), EventKind::NodeUp);
            Arc::new(Event { seq, at, kind, node: None, spawn: None, data: Map::new() })
        };
        let most = u64::try_from(MOST).unwrap();
        for seq in 1..=most {
            ring.push(event(100 + 2 * seq));
        }
        assert_eq!(seqs(&ring, 100).unwrap().len(), MOST);
        assert_eq!(seqs(&ring, 100 + 2 * most - 3), Some(vec![100 + 2 * most - 2, 100 + 2 * most]));
        ring.push(event(1_000_000));
        assert_eq!(seqs(&ring, 101), None, "the oldest is gone");
        assert_eq!(seqs(&ring, 102).unwrap().len(), MOST);
        assert_eq!(seqs(&ring, 1_000_000), Some(vec![]));
    }
}
