//! Nodes that one request does not ask, and for how long.
//!
//! Invariant: before a request waits in line, every node that gave it nothing is excluded. In line, those that refused or could
//! not be reached are asked again after a while, and those where a process failed are not.

use std::time::Duration;

use model::NodeId;
use tokio::time::Instant;
use wire::v1::refused::Reason;

/// In line, a node that was full is asked again after this time.
const FULL: Duration = Duration::from_millis(500);
/// And one that refused for another reason, or could not be reached, after this time.
const UNWILLING: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
struct Exclusion {
    node: NodeId,
    /// `None`: for the whole request.
    until: Option<Instant>,
    /// The attempt to connect to it goes on; it may be asked once more when there is no other.
    connecting: bool,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exclusions {
    list: Vec<Exclusion>,
    /// Nodes that were asked once more already.
    again: Vec<NodeId>,
    /// The last attempt that ended without a start.
    last: Option<Instant>,
    connects: usize,
    probed: bool,
}

impl Exclusions {
    fn put(&mut self, node: &NodeId, until: Option<Instant>, connecting: bool) {
        self.list.retain(|exclusion| exclusion.node != *node);
        self.list.push(Exclusion { node: node.clone(), until, connecting });
    }

    /// A process failed there.
    pub(crate) fn failed(&mut self, node: &NodeId) {
        self.put(node, None, false);
    }

    /// Its agent's answer is missing.
    pub(crate) fn unanswered(&mut self, node: &NodeId) {
        self.pause(node, UNWILLING, false);
    }

    pub(crate) fn refused(&mut self, node: &NodeId, reason: Reason) {
        let pause = if matches!(reason, Reason::Full | Reason::GpusFull) { FULL } else { UNWILLING };
        self.pause(node, pause, false);
    }

    pub(crate) fn unreachable(&mut self, node: &NodeId, connecting: bool) {
        self.connects += 1;
        self.pause(node, UNWILLING, connecting && !self.again.contains(node));
    }

    fn pause(&mut self, node: &NodeId, pause: Duration, connecting: bool) {
        let now = Instant::now();
        self.last = Some(now);
        self.put(node, Some(now + pause), connecting);
    }

    /// The request is given a failing node.
    pub(crate) fn probed(&mut self) {
        self.probed = true;
    }

    /// Whether the request was given a failing node: one probe a request is enough.
    pub(crate) fn has_probed(&self) -> bool {
        self.probed
    }

    pub(crate) fn all(&self) -> Vec<NodeId> {
        self.list.iter().map(|exclusion| exclusion.node.clone()).collect()
    }

    /// Those that hold for a request in line.
    pub(crate) fn in_line(&self) -> Vec<NodeId> {
        let now = Instant::now();
        let holds = |exclusion: &&Exclusion| exclusion.until.is_none_or(|until| until > now);
        self.list.iter().filter(holds).map(|exclusion| exclusion.node.clone()).collect()
    }

    /// Takes out the nodes whose connection may have been made by now, each once. Returns whether there was one.
    pub(crate) fn ask_connecting_again(&mut self) -> bool {
        let (again, rest) =
            std::mem::take(&mut self.list).into_iter().partition(|e: &Exclusion| e.connecting);
        self.list = rest;
        let again: Vec<Exclusion> = again;
        let any = !again.is_empty();
        self.again.extend(again.into_iter().map(|exclusion| exclusion.node));
        any
    }

    /// When the last attempt ended that started nothing.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Whether an agent could not be reached.
    pub(crate) fn has_unreachable(&self) -> bool {
        self.connects > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(nodes: &[NodeId]) -> Vec<&str> {
        nodes.iter().map(NodeId::as_str).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn in_line_a_refusal_is_forgotten_after_a_while_and_a_failure_is_not() {
        let mut exclusions = Exclusions::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| name.parse::<NodeId>().unwrap());
        exclusions.failed(&a);
        exclusions.refused(&b, Reason::Full);
        exclusions.refused(&c, Reason::LowMemory);
        assert_eq!(names(&exclusions.in_line()), ["a", "b", "c"]);
        tokio::time::advance(FULL).await;
        assert_eq!(names(&exclusions.in_line()), ["a", "c"]);
        tokio::time::advance(UNWILLING).await;
        assert_eq!(names(&exclusions.in_line()), ["a"]);
        assert_eq!(names(&exclusions.all()), ["a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_being_connected_to_is_asked_once_more() {
        let mut exclusions = Exclusions::default();
        let node: NodeId = "a".parse().unwrap();
        exclusions.unreachable(&node, true);
        assert!(exclusions.ask_connecting_again() && exclusions.all().is_empty());
        exclusions.unreachable(&node, true);
        assert!(!exclusions.ask_connecting_again(), "once");
        assert_eq!(names(&exclusions.all()), ["a"]);
    }
}
