//! Pings on their way to subscribers: the newest entries, and which nodes' are wanted until when. They are in no history, and the
//! oldest are dropped. `redis/lua/pings.lua` does the same.

use std::collections::{HashMap, VecDeque};

use model::{Event, NodeId, Timestamp};

use crate::pings::{MAX_ENTRIES, WANTED_FOR, WantedPings};

/// The newest entries, and who wants them until when.
#[derive(Debug, Clone, Default)]
pub(super) struct PingQueue {
    all_until: Timestamp,
    of_until: HashMap<NodeId, Timestamp>,
    entries: VecDeque<Event>,
}

impl PingQueue {
    pub(super) fn are_wanted(&self, node: &NodeId, now: Timestamp) -> bool {
        self.all_until > now || self.of_until.get(node).is_some_and(|until| *until > now)
    }

    pub(super) fn want(&mut self, wanted: &WantedPings, now: Timestamp) {
        let until = now.after(WANTED_FOR);
        match wanted {
            WantedPings::All => self.all_until = until,
            WantedPings::Of(nodes) => {
                self.of_until.retain(|_, until| *until > now);
                self.of_until.extend(nodes.iter().map(|node| (node.clone(), until)));
            }
        }
    }

    pub(super) fn push(&mut self, entry: Event) {
        self.entries.push_back(entry);
        if self.entries.len() > MAX_ENTRIES {
            self.entries.pop_front();
        }
    }

    /// Whether one has this number.
    pub(super) fn has(&self, seq: u64) -> bool {
        self.entries.binary_search_by_key(&seq, |entry| entry.seq).is_ok()
    }

    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = Event> {
        let from = self.entries.partition_point(|entry| entry.seq <= seq);
        self.entries.range(from..).cloned()
    }
}
