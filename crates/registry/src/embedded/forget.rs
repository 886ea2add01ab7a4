//! Nodes that are not known any more: an operator had them forgotten, or they were down for long. `redis/lua/forget.lua` does the same.

use model::{Availability, EventKind, NodeId};
use serde_json::{Map, Value};

use super::farm::Farm;
use crate::ask::{Forgotten, operator_data};

impl Farm {
    pub(super) fn forget(&mut self, node: &NodeId, by: Option<&str>) -> Forgotten {
        self.expire_beats();
        match self.nodes.get(node).map(|state| (state.availability, state.generation)) {
            None => Forgotten::Unknown,
            Some((Availability::Up, _)) => Forgotten::Up,
            Some((Availability::Stale | Availability::Down, last)) => {
                // Orders up to now are not for the next node of this name.
                let (now, lifetime) = (self.now, self.timing.forget);
                self.forgotten.retain(|_, (at, _)| now.since(*at) < lifetime);
                self.forgotten.insert(node.clone(), (now, last.max(now.millis())));
                Forgotten::Gone { ended: self.drop_node(node, operator_data(None, by)) }
            }
        }
    }

    /// Drops a node, its slots and its indexes, and ends its spawns. Returns how many had not ended.
    pub(super) fn drop_node(&mut self, node: &NodeId, data: Map<String, Value>) -> u32 {
        self.unplace(node);
        let Some(state) = self.nodes.remove(node) else { return 0 };
        self.beats.remove(&(state.beat, node.clone()));
        let mut ended = 0;
        for (id, held) in state.held {
            self.owned.remove(held.owner.as_ref(), id);
            ended += u32::from(self.end_unseen(node, id));
        }
        self.history.publish(self.now, self.now, EventKind::NodeForgotten, node, None, data);
        ended
    }
}
