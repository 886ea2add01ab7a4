//! Nodes whose agent could not be reached. They are the last choice until [`QUARANTINE`] is over or a connection to them is made.
//! Why and since when is kept until a connection is made or the node is not up any more, for operators.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::api::Unreachable;
use model::{NodeId, Timestamp};
use tokio::time::Instant;

/// Long enough for the registry to notice that heartbeats are missing, where they are.
const QUARANTINE: Duration = Duration::from_secs(3);
/// Nodes remembered: those of the largest farm.
const MAX_NODES: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// Never held across an await.
    nodes: Mutex<HashMap<NodeId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// The node is the last choice until then.
    until: Instant,
    /// `None`: there was a connection, and another node at its end.
    failed: Option<Unreachable>,
}

impl Quarantine {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Entry>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is no connection, for this reason.
    pub(super) fn put(&self, node: &NodeId, reason: &str) {
        self.insert(node, Some(reason));
    }

    /// Another node is at its address.
    pub(super) fn put_elsewhere(&self, node: &NodeId) {
        self.insert(node, None);
    }

    fn insert(&self, node: &NodeId, reason: Option<&str>) {
        let now = Instant::now();
        let mut nodes = self.lock();
        if nodes.len() >= MAX_NODES {
            nodes.retain(|_, entry| entry.until > now);
        }
        if nodes.len() >= MAX_NODES && !nodes.contains_key(node) {
            return;
        }
        let entry = nodes.entry(node.clone()).or_insert(Entry { until: now, failed: None });
        entry.until = now + QUARANTINE;
        if let Some(reason) = reason {
            let since = entry.failed.as_ref().map_or_else(Timestamp::now, |failed| failed.since);
            entry.failed = Some(Unreachable { since, reason: reason.to_owned() });
        }
    }

    pub(super) fn release(&self, node: &NodeId) {
        self.lock().remove(node);
    }

    pub(super) fn has(&self, node: &NodeId) -> bool {
        self.lock().get(node).is_some_and(|entry| entry.until > Instant::now())
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        let nodes = self.lock();
        if nodes.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        nodes.iter().filter(|(_, entry)| entry.until > now).map(|(node, _)| node.clone()).collect()
    }

    /// Why there is no connection to this node.
    pub(super) fn failed(&self, node: &NodeId) -> Option<Unreachable> {
        self.lock().get(node)?.failed.clone()
    }

    /// Nodes without a connection, those that were tried least recently first.
    pub(super) fn all_failed(&self) -> Vec<NodeId> {
        let nodes = self.lock();
        let failed = nodes.iter().filter(|(_, entry)| entry.failed.is_some());
        let mut failed: Vec<(Instant, NodeId)> =
            failed.map(|(node, entry)| (entry.until, node.clone())).collect();
        failed.sort();
        failed.into_iter().map(|(_, node)| node).collect()
    }

    /// Keeps what is known of these nodes alone, and of those that are in quarantine.
    pub(super) fn keep(&self, is_kept: impl Fn(&NodeId) -> bool) {
        let now = Instant::now();
        self.lock().retain(|node, entry| entry.until > now || entry.failed.is_some() && is_kept(node));
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
            quarantine.put(&name(i), "refused");
        }
        assert_eq!(quarantine.nodes().len(), 200);
        quarantine.release(&name(7));
        assert!(!quarantine.nodes().contains(&name(7)));
        tokio::time::advance(QUARANTINE).await;
        assert!(quarantine.nodes().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn why_a_node_has_no_connection_is_known_until_it_has_one_or_is_not_up() {
        let quarantine = Quarantine::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| name.parse::<NodeId>().unwrap());
        quarantine.put(&a, "refused");
        let since = quarantine.failed(&a).unwrap().since;
        tokio::time::advance(QUARANTINE).await;
        quarantine.put(&b, "expired");
        quarantine.put_elsewhere(&c);
        assert_eq!((quarantine.all_failed(), quarantine.failed(&c)), (vec![a.clone(), b.clone()], None));
        tokio::time::advance(Duration::from_millis(1)).await;
        quarantine.put(&a, "no route");
        assert_eq!(quarantine.failed(&a), Some(Unreachable { since, reason: "no route".to_owned() }));
        assert_eq!(quarantine.all_failed(), [b.clone(), a.clone()]);
        tokio::time::advance(QUARANTINE).await;
        quarantine.keep(|node| *node == a);
        assert_eq!(quarantine.all_failed(), std::slice::from_ref(&a), "the other one is not up any more");
        quarantine.release(&a);
        assert_eq!(quarantine.failed(&a), None);
    }
}
