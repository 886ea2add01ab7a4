//! What operators want of each node: the order with the highest number that this front door has seen, its own and those in the
//! registry's records.
//!
//! A registry that was wiped, or went back to an older state, has forgotten orders that were acknowledged. The node's agent
//! reports the order it has, but an agent that was down at the time has none. So front doors repeat what they remember.
//!
//! Invariants: the higher number wins everywhere. Nothing is placed on a node whose closing the registry has forgotten, until the
//! registry is repaired. An order is dropped when its node has been missing for as long as the registry lists dead nodes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Drain, Eligibility, NodeId, NodeRecord};
use tokio::time::Instant;

/// Nodes remembered: those of the largest farm.
const MAX_NODES: usize = 10_000;

/// What an operator wants of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeOrder {
    pub(crate) generation: u64,
    pub(crate) eligibility: Eligibility,
    pub(crate) drain: Option<Drain>,
}

#[derive(Debug)]
struct Remembered {
    order: NodeOrder,
    /// The number that the registry showed last; 0 when it does not know the node.
    shown: u64,
    /// Since when the registry does not know the node.
    missing: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct DesiredStates {
    /// Never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<NodeId, Remembered>,
    /// Nodes that are closed by an order which the registry has forgotten. Every request reads it, and it is mostly empty.
    closed: Vec<NodeId>,
}

impl State {
    fn tidy(&mut self) {
        let is_closed = |known: &Remembered| {
            known.shown < known.order.generation && known.order.eligibility != Eligibility::Eligible
        };
        let closed = self.nodes.iter().filter(|(_, known)| is_closed(known));
        self.closed = closed.map(|(node, _)| node.clone()).collect();
    }
}

impl DesiredStates {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry has taken this order.
    pub(crate) fn given(&self, node: &NodeId, order: NodeOrder) {
        let mut state = self.lock();
        let nodes = &mut state.nodes;
        if let Some(known) = nodes.get_mut(node) {
            if order.generation >= known.order.generation {
                known.shown = order.generation;
                known.order = order;
            }
        } else if nodes.len() < MAX_NODES {
            let shown = order.generation;
            nodes.insert(node.clone(), Remembered { order, shown, missing: None });
        }
        state.tidy();
    }

    /// The node is not known any more: an order to it is not for the next node of that name.
    pub(crate) fn forget(&self, node: &NodeId) {
        let mut state = self.lock();
        state.nodes.remove(node);
        state.tidy();
    }

    /// The number of the node's highest order.
    pub(crate) fn generation(&self, node: &NodeId) -> u64 {
        self.lock().nodes.get(node).map_or(0, |known| known.order.generation)
    }

    /// Takes in the registry's records, which are sorted by name. Returns the orders that it has forgotten; the caller repeats them.
    pub(crate) fn observe(&self, records: &[NodeRecord], forget: Duration) -> Vec<(NodeId, NodeOrder)> {
        let mut state = self.lock();
        let nodes = &mut state.nodes;
        for record in records.iter().filter(|record| record.generation > 0) {
            let shown = NodeOrder {
                generation: record.generation,
                eligibility: record.eligibility,
                drain: record.drain.clone(),
            };
            let has_room = nodes.len() < MAX_NODES;
            match nodes.get_mut(&record.id) {
                // With the same number it was changed by a front door of the release before this one, which does not number.
                Some(known) if known.order.generation <= shown.generation => known.order = shown,
                Some(_) => {}
                None if has_room => {
                    let known = Remembered { order: shown, shown: record.generation, missing: None };
                    nodes.insert(record.id.clone(), known);
                }
                None => {}
            }
        }
        let now = Instant::now();
        let mut forgotten = Vec::new();
        nodes.retain(|node, known| {
            let Ok(at) = records.binary_search_by(|record| record.id.cmp(node)) else {
                known.shown = 0;
                return known.missing.get_or_insert(now).elapsed() < forget;
            };
            known.missing = None;
            known.shown = records[at].generation;
            // An agent of the release before this one keeps orders without their numbers. Its node stays closed: whether that or
            // the opening is older is not known.
            let is_unnumbered = known.shown == 0 && records[at].eligibility != Eligibility::Eligible;
            if is_unnumbered && known.order.eligibility == Eligibility::Eligible {
                return true;
            }
            if known.shown < known.order.generation {
                forgotten.push((node.clone(), known.order.clone()));
            }
            true
        });
        state.tidy();
        forgotten
    }

    /// The registry has the order again.
    pub(crate) fn restored(&self, node: &NodeId, generation: u64) {
        let mut state = self.lock();
        if let Some(known) = state.nodes.get_mut(node) {
            known.shown = known.shown.max(generation);
        }
        state.tidy();
    }

    /// Nodes that are closed by an order which the registry has forgotten.
    pub(crate) fn closed(&self) -> Vec<NodeId> {
        self.lock().closed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry_access::snapshot::tests::node;

    const FORGET: Duration = Duration::from_secs(60);

    fn order(generation: u64, eligibility: Eligibility) -> NodeOrder {
        NodeOrder { generation, eligibility, drain: None }
    }

    fn record(name: &str, generation: u64, eligibility: Eligibility) -> NodeRecord {
        NodeRecord { generation, eligibility, ..node(name, 1, 0) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_that_the_registry_has_forgotten_is_repeated_and_holds_meanwhile() {
        use Eligibility::{Cordoned, Draining, Eligible};
        let orders = DesiredStates::default();
        let a: NodeId = "a".parse().unwrap();
        orders.given(&a, order(3, Draining));
        assert!(orders.observe(&[record("a", 3, Draining)], FORGET).is_empty());
        assert!(orders.closed().is_empty(), "the registry sees to it");

        assert!(orders.observe(&[], FORGET).is_empty(), "the node is not there to repeat it to");
        assert_eq!(orders.closed(), std::slice::from_ref(&a));
        let back = [record("a", 1, Eligible)];
        for _ in 0..2 {
            assert_eq!(orders.observe(&back, FORGET), [(a.clone(), order(3, Draining))]);
            assert_eq!(orders.closed(), std::slice::from_ref(&a));
        }
        orders.restored(&a, 3);
        assert!(orders.closed().is_empty());

        assert!(orders.observe(&[record("a", 4, Eligible)], FORGET).is_empty(), "the higher number wins");
        assert_eq!(orders.observe(&[record("a", 2, Cordoned)], FORGET), [(a, order(4, Eligible))]);
        assert!(orders.closed().is_empty(), "it was open");
    }

    #[tokio::test(start_paused = true)]
    async fn orders_without_numbers_are_not_undone_by_older_ones() {
        use Eligibility::{Cordoned, Eligible};
        let orders = DesiredStates::default();
        let a: NodeId = "a".parse().unwrap();
        orders.given(&a, order(3, Eligible));
        assert!(orders.observe(&[record("a", 3, Cordoned)], FORGET).is_empty());
        assert!(
            orders.observe(&[record("a", 0, Cordoned)], FORGET).len() == 1,
            "the registry had it with this number"
        );
        orders.given(&a, order(4, Eligible));
        assert!(orders.observe(&[record("a", 0, Cordoned)], FORGET).is_empty(), "it may be newer");
        assert!(orders.closed().is_empty());
        orders.given(&a, order(5, Cordoned));
        assert_eq!(orders.observe(&[record("a", 0, Eligible)], FORGET), [(a, order(5, Cordoned))]);
    }

    #[tokio::test(start_paused = true)]
    async fn orders_are_learned_from_records_and_forgotten_with_their_nodes() {
        let orders = DesiredStates::default();
        let a: NodeId = "a".parse().unwrap();
        orders
            .observe(&[record("a", 5, Eligibility::Cordoned), record("b", 0, Eligibility::Eligible)], FORGET);
        assert_eq!(orders.generation(&a), 5);
        assert_eq!(orders.lock().nodes.len(), 1, "a node without orders takes no room");
        orders.observe(&[], FORGET);
        tokio::time::advance(FORGET / 2).await;
        orders.observe(&[record("a", 5, Eligibility::Cordoned)], FORGET);
        orders.observe(&[], FORGET);
        tokio::time::advance(FORGET / 2).await;
        orders.observe(&[], FORGET);
        assert_eq!(orders.closed(), [a]);
        tokio::time::advance(FORGET / 2).await;
        orders.observe(&[], FORGET);
        assert!(orders.closed().is_empty());
    }
}
