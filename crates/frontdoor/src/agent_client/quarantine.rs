//! Nodes whose agent could not be reached a moment ago. They are the last choice until [`QUARANTINE`] is over or a connection
//! to them is made.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::NodeId;
use tokio::time::Instant;

/// Long enough for the registry to notice that heartbeats are missing, where they are.
const QUARANTINE: Duration = Duration::from_secs(3);
/// Nodes remembered: those of the largest farm.
const MAX_NODES: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// Until when. Never held across an await.
    nodes: Mutex<HashMap<NodeId, Instant>>,
}

impl Quarantine {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, node: &NodeId) {
        let now = Instant::now();
        let mut nodes = self.lock();
        if nodes.len() >= MAX_NODES {
            nodes.retain(|_, until| *until > now);
        }
        if nodes.len() < MAX_NODES || nodes.contains_key(node) {
            nodes.insert(node.clone(), now + QUARANTINE);
        }
    }

    pub(super) fn release(&self, node: &NodeId) {
        self.lock().remove(node);
    }

    pub(super) fn has(&self, node: &NodeId) -> bool {
        self.lock().get(node).is_some_and(|until| *until > Instant::now())
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        let mut nodes = self.lock();
        if nodes.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        nodes.retain(|_, until| *until > now);
        nodes.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_node_of_a_large_farm_is_remembered_for_a_while() {
        let quarantine = Quarantine::default();
        let name = |i: usize| format!("n{i}").parse::<NodeId>().unwrap();
        for i in 0..200 {
            quarantine.put(&name(i));
        }
        assert_eq!(quarantine.nodes().len(), 200);
        quarantine.release(&name(7));
        assert!(!quarantine.nodes().contains(&name(7)));
        tokio::time::advance(QUARANTINE).await;
        assert!(quarantine.nodes().is_empty());
    }
}
