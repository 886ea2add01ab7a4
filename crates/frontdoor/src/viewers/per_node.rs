//! Handshakes under way with each node: with its agent, or with its relay. Their viewers have shown no token yet, so a node that does not
//! answer must not take the handshakes of the others.
//!
//! ```text
//!             its answer is late, or it cannot be reached
//!   trusted ───────────────────────────────────────────────▶ resting: answered at once, for REST
//!      ▲                                                        │
//!      └────── it answers ───── unsure: a few at a time ◀───────┘
//! ```
//!
//! Invariants: a node has at most [`MAX_PER_NODE`] handshakes under way; one that is unsure, or down, at most [`MAX_UNSURE`], and all such nodes
//! together [`MAX_ALL_UNSURE`]. A viewer that gives up says nothing about the node: strangers could keep all others out by that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Most handshakes with one node at once.
const MAX_PER_NODE: usize = 128;
/// The same for a node that did not answer the last time, or is down.
const MAX_UNSURE: usize = 8;
/// The same for all such nodes together.
const MAX_ALL_UNSURE: usize = 64;
/// A node that did not answer is not tried again for so long.
const REST: Duration = Duration::from_secs(1);
/// A node that did not answer is trusted again after this time: it may be another machine by now.
const FORGET: Duration = Duration::from_secs(60);

/// Why no handshake is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// The node did not answer a moment ago.
    Resting,
    /// Too many are under way.
    Busy,
}

/// See the module's documentation. Clones share one state.
#[derive(Debug, Clone)]
pub(super) struct NodeHandshakes {
    /// Of nodes with handshakes under way, or that did not answer. Never held across an await.
    nodes: Arc<Mutex<HashMap<NodeId, State>>>,
    unsure: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    /// When it last did not answer; `None` once it has answered since.
    failed: Option<Instant>,
}

/// A handshake with a node that is under way.
#[derive(Debug)]
pub(super) struct Handshake {
    all: NodeHandshakes,
    node: NodeId,
    _unsure: Option<OwnedSemaphorePermit>,
}

impl Default for NodeHandshakes {
    fn default() -> Self {
        Self { nodes: Arc::default(), unsure: Arc::new(Semaphore::new(MAX_ALL_UNSURE)) }
    }
}

impl NodeHandshakes {
    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, State>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a handshake with this node, which has sent no heartbeat for long where it `is_down`.
    pub(super) fn begin(&self, node: &NodeId, is_down: bool) -> Result<Handshake, NotBegun> {
        let mut nodes = self.nodes();
        let (under_way, failed) = nodes.get(node).map_or((0, None), |state| (state.under_way, state.failed));
        if failed.is_some_and(|failed| failed.elapsed() < REST) {
            return Err(NotBegun::Resting);
        }
        let is_unsure = is_down || failed.is_some();
        if under_way >= if is_unsure { MAX_UNSURE } else { MAX_PER_NODE } {
            return Err(NotBegun::Busy);
        }
        let permit = is_unsure.then(|| Arc::clone(&self.unsure).try_acquire_owned()).transpose();
        let permit = permit.map_err(|_| NotBegun::Busy)?;
        nodes.entry(node.clone()).or_default().under_way += 1;
        Ok(Handshake { all: self.clone(), node: node.clone(), _unsure: permit })
    }
}

impl Handshake {
    /// The node has answered.
    pub(super) fn answered(&self) {
        self.all.nodes().entry(self.node.clone()).or_default().failed = None;
    }

    /// The node cannot be reached, or has not answered in time.
    pub(super) fn failed(&self) {
        self.all.nodes().entry(self.node.clone()).or_default().failed = Some(Instant::now());
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut nodes = self.all.nodes();
        if let Some(state) = nodes.get_mut(&self.node) {
            state.under_way = state.under_way.saturating_sub(1);
        }
        nodes.retain(|_, state| {
            state.under_way > 0 || state.failed.is_some_and(|failed| failed.elapsed() < FORGET)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> NodeId {
        format!("node-{number}").parse().unwrap()
    }

    /// As many as may be under way with a node, beside those that are.
    fn fill(all: &NodeHandshakes, node: &NodeId, is_down: bool) -> Vec<Handshake> {
        std::iter::from_fn(|| all.begin(node, is_down).ok()).take(10_000).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_answer_takes_a_part_and_then_rests() {
        let all = NodeHandshakes::default();
        let held = fill(&all, &name(0), false);
        assert_eq!((held.len(), all.begin(&name(0), false).unwrap_err()), (MAX_PER_NODE, NotBegun::Busy));
        assert!(all.begin(&name(1), false).is_ok());
        held[0].failed();
        assert_eq!(all.begin(&name(0), false).unwrap_err(), NotBegun::Resting);
        tokio::time::advance(REST).await;
        assert_eq!(all.begin(&name(0), false).unwrap_err(), NotBegun::Busy, "the others still wait");
        drop(held);
        let few = fill(&all, &name(0), false);
        assert_eq!(few.len(), MAX_UNSURE);
        few[0].answered();
        assert_eq!(fill(&all, &name(0), false).len(), MAX_PER_NODE - MAX_UNSURE);
    }

    #[tokio::test(start_paused = true)]
    async fn all_nodes_that_are_down_together_take_a_small_part() {
        let all = NodeHandshakes::default();
        let held: Vec<_> = (0..1000).flat_map(|number| fill(&all, &name(number), true)).collect();
        assert_eq!(held.len(), MAX_ALL_UNSURE);
        assert_eq!(fill(&all, &name(5000), false).len(), MAX_PER_NODE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_that_gives_up_says_nothing_about_the_node_and_nothing_is_kept_for_good() {
        let all = NodeHandshakes::default();
        drop(all.begin(&name(0), false).unwrap());
        assert!(all.nodes().is_empty());
        all.begin(&name(0), false).unwrap().failed();
        assert_eq!(all.nodes().len(), 1);
        tokio::time::advance(FORGET).await;
        drop(all.begin(&name(1), false).unwrap());
        assert!(all.nodes().is_empty());
    }
}
