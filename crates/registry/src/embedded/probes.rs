//! The order in which failing nodes are due for a probe, by the registry's clock. A node is in it once, and only while it is failing.

use std::collections::{BTreeSet, HashMap};

use model::NodeId;

/// When nodes may have their next probe.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes {
    order: BTreeSet<(u64, NodeId)>,
    at: HashMap<NodeId, u64>,
}

impl Probes {
    pub(super) fn put(&mut self, node: &NodeId, at: u64) {
        self.take(node);
        self.order.insert((at, node.clone()));
        self.at.insert(node.clone(), at);
    }

    pub(super) fn take(&mut self, node: &NodeId) {
        if let Some(at) = self.at.remove(node) {
            self.order.remove(&(at, node.clone()));
        }
    }

    pub(super) fn first(&self) -> Option<(u64, NodeId)> {
        self.order.first().cloned()
    }
}
