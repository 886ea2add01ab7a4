//! The last events, so that a subscriber that was cut off for a moment can go on without a call to the registry.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use model::{Event, Owner};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::protocol::{Form, Topic, event_frame};

/// Events kept: a few seconds of a busy farm, hours of a quiet one.
const MAX_EVENTS: usize = 10_000;

/// What the spawn of an event was when it happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject {
    /// Whether the rest is known. It is of nodes whose spawns are followed.
    pub(crate) is_known: bool,
    pub(crate) owner: Option<Owner>,
    pub(crate) tags: BTreeMap<String, String>,
}

/// An event, and what its spawn was when it happened.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) event: Arc<Event>,
    pub(crate) of: Subject,
    /// Its frame on the topic that most subscribers have.
    frame: OnceLock<Utf8Bytes>,
}

impl Owned {
    pub(crate) fn new(event: Arc<Event>, of: Subject) -> Self {
        Self { event, of, frame: OnceLock::new() }
    }

    /// Its frame on a topic, in this form. On `nodes` and `spawns` it is encoded once.
    pub(crate) fn frame(&self, topic: &Topic, form: Form) -> Utf8Bytes {
        match topic {
            // An event is of one of them.
            Topic::Nodes | Topic::Spawns => {
                self.frame.get_or_init(|| event_frame(topic, &self.event, form)).clone()
            }
            _ => event_frame(topic, &self.event, form),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The last event that is not here; every event after it is.
    before: u64,
    events: VecDeque<Arc<Owned>>,
}

impl Ring {
    /// Empty, and complete after this event. What is added may be of before it, too.
    pub(crate) fn after_event(before: u64) -> Self {
        Self { before, events: VecDeque::new() }
    }

    /// Adds the next event.
    pub(crate) fn push(&mut self, owned: Arc<Owned>) {
        if self.events.len() == MAX_EVENTS
            && let Some(old) = self.events.pop_front()
        {
            self.before = self.before.max(old.event.seq);
        }
        self.events.push_back(owned);
    }

    /// All events after this one; `None` when some of them are not here any more, or when there is no such event: numbers
    /// come from clocks, so one of another registry may lie between those of this one.
    pub(crate) fn since(&self, seq: u64) -> Option<impl Iterator<Item = &Arc<Owned>>> {
        let from = self.events.partition_point(|owned| owned.event.seq <= seq);
        let last = from.checked_sub(1).map_or(self.before, |at| self.events[at].event.seq.max(self.before));
        (seq == last || (from > 0 && self.events[from - 1].event.seq == seq))
            .then(|| self.events.range(from..))
    }

    /// All events after this one, as the last one is `last`; `None` when some of them are not here any more.
    pub(crate) fn after(&self, seq: u64, last: u64) -> Option<Vec<Arc<Event>>> {
        if seq == last {
            return Some(Vec::new());
        }
        self.since(seq).map(|events| events.map(|owned| Arc::clone(&owned.event)).collect())
    }
}

#[cfg(test)]
mod tests {
    use model::{EventKind, Timestamp};
    use serde_json::Map;

    use super::*;

    fn event(seq: u64) -> Arc<Owned> {
        let (at, kind) = (Timestamp::default(), EventKind::NodeUp);
        let event = Event { seq, at, kind, node: None, spawn: None, data: Map::new() };
        Arc::new(Owned::new(Arc::new(event), Subject::default()))
    }

    #[test]
    fn it_knows_what_it_has_and_what_it_has_not() {
        let mut ring = Ring::after_event(100);
        let seqs =
            |ring: &Ring, seq| ring.since(seq).map(|events| events.map(|e| e.event.seq).collect::<Vec<_>>());
        assert_eq!((seqs(&ring, 99), seqs(&ring, 100)), (None, Some(vec![])));
        let most = u64::try_from(MAX_EVENTS).unwrap();
        for seq in 1..=most {
            ring.push(event(100 + 2 * seq));
        }
        assert_eq!(seqs(&ring, 100).unwrap().len(), MAX_EVENTS);
        assert_eq!(seqs(&ring, 103), None, "a number between two events is of another registry");
        assert_eq!(seqs(&ring, 100 + 2 * most - 4), Some(vec![100 + 2 * most - 2, 100 + 2 * most]));
        ring.push(event(1_000_000));
        assert_eq!(seqs(&ring, 100), None, "the oldest is gone");
        assert_eq!(seqs(&ring, 102).unwrap().len(), MAX_EVENTS);
        assert_eq!(seqs(&ring, 1_000_000), Some(vec![]));
    }

    #[test]
    fn an_event_is_encoded_once_for_the_topic_that_most_have() {
        let owned = event(7);
        let [first, again] = [(); 2].map(|()| owned.frame(&Topic::Nodes, Form::Whole));
        assert!(std::ptr::eq(first.as_str(), again.as_str()));
        let of_node = owned.frame(&Topic::Node("a".parse().unwrap()), Form::Whole);
        assert!(of_node.contains(r#""topic":"node:a""#));
    }
}
