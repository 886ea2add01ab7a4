//! What time alone changes: late heartbeats, expired reservations, lapsed places in line, old records.
//! `redis/lua/sweep.lua` does the same.
//!
//! ```text
//!            none for `stale`            none for `down`: spawns are lost           none for `forget`
//! up ──────────────────────────▶ stale ─────────────────────────────────▶ down ─────────────────────▶ forgotten
//! ▲                                │                                        │
//! └────────── heartbeat ───────────┴────────────────────────────────────────┘
//! ```
//!
//! Silence counts only while the registry was there to hear, see [`crate::judge`].

use model::{Availability, Eligibility, EventKind, NodeId, SpawnState, Timestamp};
use serde_json::Map;

use super::farm::{Farm, Hold};

impl Farm {
    /// Calls nodes stale whose heartbeats are late.
    pub(super) fn expire_beats(&mut self) {
        let (stale, down) = (self.timing.stale, self.timing.down);
        let grace = self.judged.judge(self.now, &self.timing);
        let now = self.now;
        let silence = |beat: Timestamp| now.since(beat.max(grace));
        let late: Vec<(Timestamp, NodeId)> =
            self.beats.iter().take_while(|(beat, _)| silence(*beat) >= stale).cloned().collect();
        for (beat, node) in late {
            let Some(state) = self.nodes.get_mut(&node) else { continue };
            if state.availability == Availability::Up {
                state.availability = Availability::Stale;
                self.place(&node);
                self.publish_node(EventKind::NodeStale, &node);
            }
            if silence(beat) >= down {
                self.beats.remove(&(beat, node.clone()));
                self.give_up(&node);
            }
        }
    }

    /// Calls a node down and its spawns lost.
    fn give_up(&mut self, node: &NodeId) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        state.availability = Availability::Down;
        let running = state.held.iter().filter(|(_, held)| held.hold == Hold::Running);
        let running: Vec<_> = running.map(|(id, held)| (*id, held.owner.clone())).collect();
        self.publish_node(EventKind::NodeDown, node);
        for (id, owner) in running {
            self.owned.remove(owner.as_ref(), id);
            if let Some(record) = self.history.get_mut(id)
                && !matches!(record.state, SpawnState::Exited | SpawnState::Lost)
            {
                record.state = SpawnState::Lost;
                self.history.publish(self.now, self.now, EventKind::SpawnLost, node, Some(id), Map::new());
            }
        }
        // Nothing is left there to wait for. Without slots in use it was reported before.
        let drains = self
            .nodes
            .get(node)
            .is_some_and(|state| state.eligibility == Eligibility::Draining && !state.held.is_empty());
        if drains {
            self.publish_node(EventKind::NodeDrained, node);
        }
    }

    /// Returns whether more is due already.
    pub(super) fn sweep(&mut self) -> bool {
        self.expire_beats();
        while let Some((until, spawn, node)) = self.expiries.first().cloned()
            && until <= self.now
        {
            self.expiries.pop_first();
            let Some(state) = self.nodes.get_mut(&node) else { continue };
            match state.held.get(&spawn).map(|held| held.hold) {
                // A call that is under way may still ask the agent to start it, so the agent must know. It is not
                // abandoned: its caller may have been answered while the agent was cut off from the registry.
                Some(Hold::Reserved | Hold::Abandoned) => {
                    state.expired.insert(spawn);
                    self.free(&node, spawn);
                }
                Some(Hold::Running) | None => {}
            }
        }
        let line_now = self.line_now();
        if self.line.sweep(line_now) {
            self.wake_line();
        }
        let is_more = self.history.sweep(self.now);
        self.audits.sweep(self.now);
        self.claims.sweep(self.now);
        self.forget_nodes();
        is_more
    }

    fn forget_nodes(&mut self) {
        let old: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, n)| {
                n.availability == Availability::Down && self.now.since(n.beat) >= self.timing.forget
            })
            .map(|(id, _)| id.clone())
            .collect();
        for node in old {
            self.drop_node(&node, Map::new());
        }
    }
}
