//! Where nodes with room stand: one [`Stock`] for each kind of node and renderer.
//!
//! A stock is an index and never authoritative; `index.rs` keeps it true. `redis/lua/indexes.lua` keeps the same indexes
//! (`members:`, `open:`, `failing:`, `probes:`).

use std::collections::HashSet;

use model::{Health, NodeId};

use super::probes::Probes;
use super::shelf::{Score, Shelf};

/// Nodes of one kind that offer one renderer.
#[derive(Debug, Clone, Default)]
pub(super) struct Stock {
    /// Those that are up and eligible, full ones included.
    pub(super) members: HashSet<NodeId>,
    /// Those of them that have room and are not avoided: failing, or on probation.
    pub(super) open: Shelf,
    /// Those that have room and are avoided, and when each may have its next probe.
    pub(super) failing: Shelf,
    pub(super) probes: Probes,
}

impl Stock {
    pub(super) fn has_room(&self) -> bool {
        !self.open.is_empty() || !self.failing.is_empty()
    }

    /// Whether a node outside `avoid` has room.
    pub(super) fn has_room_besides(&self, avoid: &[NodeId]) -> bool {
        let avoided = avoid.iter().filter(|node| self.open.has(node) || self.failing.has(node)).count();
        self.open.len() + self.failing.len() > avoided
    }

    pub(super) fn take(&mut self, node: &NodeId) {
        self.open.take(node);
        self.failing.take(node);
        self.probes.take(node);
    }

    /// Puts a node where it belongs. Without a score it has no room.
    pub(super) fn put(&mut self, node: &NodeId, score: Option<Score>, handicap: u8, health: &Health) {
        self.take(node);
        match score {
            Some(score) if health.is_avoided() => {
                self.failing.put(node, score);
                self.probes.put(node, health.next_probe);
            }
            Some(score) => self.open.put(node, score.with(handicap)),
            None => {}
        }
    }
}
