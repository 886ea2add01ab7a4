//! Giving slots back. `redis/lua/slots.lua`, `freed.lua` and the scripts `release`, `release_by_id` and `abandon` do the same.
//!
//! ```text
//!              release, expiry
//!   ┌──────────────────────────────────┐
//!   │                                  ▼
//! Reserved ──── abandon ────▶ Abandoned ──▶ free
//!   │                             │  expiry, or the agent has forgotten it
//!   │ the agent reports           │ the agent reports the spawn
//!   ▼                             ▼
//! Running ◀───────────────────────┘
//!   └──▶ free: the agent reports the end, or lists the spawn no more
//! ```

use model::{Availability, Eligibility, EventKind, NodeId, SpawnId};

use super::farm::{Farm, Hold};

impl Farm {
    pub(super) fn release(&mut self, node: &NodeId, spawn: SpawnId) {
        if self.hold(node, spawn).is_some_and(|hold| hold != Hold::Running) {
            self.free(node, spawn);
        }
    }

    pub(super) fn release_by_id(&mut self, spawn: SpawnId) {
        let holds = self.nodes.iter().find(|(_, node)| node.held.contains_key(&spawn));
        if let Some(node) = holds.map(|(node, _)| node.clone()) {
            self.release(&node, spawn);
        }
    }

    pub(super) fn abandon(&mut self, node: &NodeId, spawn: SpawnId) {
        let Some(state) = self.nodes.get_mut(node) else {
            self.ahead.entry(node.clone()).or_default().insert(spawn);
            return;
        };
        if let Some(held) = state.held.get_mut(&spawn)
            && held.hold == Hold::Reserved
        {
            held.hold = Hold::Abandoned;
        }
        state.abandoned.insert(spawn);
    }

    pub(super) fn hold(&self, node: &NodeId, spawn: SpawnId) -> Option<Hold> {
        self.nodes.get(node).and_then(|n| n.held.get(&spawn)).map(|held| held.hold)
    }

    /// Gives a slot back, whatever holds it, and wakes the line.
    pub(super) fn free(&mut self, node: &NodeId, spawn: SpawnId) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let Some(held) = state.held.remove(&spawn) else { return };
        self.owned.remove(held.owner.as_ref(), spawn);
        // A node that is down was reported as drained when it went.
        let drained = state.eligibility == Eligibility::Draining
            && state.availability != Availability::Down
            && state.held.is_empty();
        self.place(node);
        if drained {
            self.publish_node(EventKind::NodeDrained, node);
        }
        self.wake_line();
    }
}
