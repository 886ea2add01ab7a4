//! Nodes, and the spawns that run there, as records for callers. Silence is judged before nodes are shown.

use std::ops::Bound;

use model::health::node_health;
use model::{Availability, NodeId, NodeRecord, Origin, SpawnRecord};

use super::farm::{Farm, Hold, NodeState};
use crate::node_list::{NodeFilter, NodePage, Paging};

impl Farm {
    pub(super) fn nodes(&mut self) -> Vec<NodeRecord> {
        self.expire_beats();
        self.nodes.iter().map(|(id, state)| record(id, state)).collect()
    }

    pub(super) fn nodes_page(&mut self, filter: &NodeFilter) -> NodePage {
        self.expire_beats();
        let after = filter.cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut paging = Paging::new(filter);
        for (id, state) in self.nodes.range::<NodeId, _>((after, Bound::Unbounded)) {
            if !paging.look_at(record(id, state)) {
                return paging.more();
            }
        }
        paging.last()
    }

    /// The spawns of these nodes that have not ended.
    pub(super) fn living(&self, nodes: &[NodeId]) -> Vec<SpawnRecord> {
        let states = nodes.iter().filter_map(|node| self.nodes.get(node));
        let running = states.flat_map(|state| {
            state.held.iter().filter(|(_, held)| held.hold == Hold::Running).map(|(id, _)| *id)
        });
        let records = running.filter_map(|id| self.history.get(id));
        records
            .map(|record| SpawnRecord { events: Vec::new(), origin: Origin::default(), ..record.clone() })
            .map(|record| self.heard_of(record))
            .collect()
    }

    pub(super) fn node(&mut self, node: &NodeId) -> Option<NodeRecord> {
        self.expire_beats();
        self.nodes.get(node).map(|state| record(node, state))
    }
}

fn record(id: &NodeId, state: &NodeState) -> NodeRecord {
    let mut record = NodeRecord {
        id: id.clone(),
        eligibility: state.eligibility,
        availability: state.availability,
        description: state.description.clone(),
        used: state.used(),
        gpu_used: state.gpu_used(),
        gpus: state.gpus.clone(),
        load: state.load,
        supply: state.supply.clone(),
        epoch: state.epoch,
        last_heartbeat_at: state.beat,
        drain: state.drain.clone(),
        generation: state.generation,
        health: node_health(&state.health.csr, &state.health.ssr),
        heard: state.heard.clone(),
    };
    if state.availability == Availability::Down {
        crate::report::hold_nothing(&mut record);
    }
    record
}
