//! Whether this front door can reach the agents of nodes that are up. Heartbeats go from the agent to the registry, so they say
//! nothing of the other way: a wrong `--advertise`, a firewall or an expired certificate leaves a node that looks idle and takes no spawn.
//!
//! One task connects again to every node that could not be reached, so that it stays the last choice, and is chosen again once it can
//! be. In a farm of at most [`MAX_MET`] nodes it also connects to those that no request has met yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use model::{NodeId, jittered};
use tokio::time::sleep;

use crate::agent_client::Agents;
use crate::metrics::FarmMetrics;
use crate::registry_access::snapshot::Snapshot;

/// Shorter than a node is the last choice for, so that it stays so.
const EVERY: Duration = Duration::from_secs(2);
/// Attempts at once.
const MAX_ATTEMPTS: usize = 32;
/// In a larger farm, idle connections would cost more than they show.
const MAX_MET: usize = 100;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Reachability {
    pub(crate) agents: Arc<Agents>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) metrics: FarmMetrics,
}

impl Reachability {
    /// Runs for ever.
    pub(crate) async fn keep(self) {
        loop {
            sleep(jittered(EVERY)).await;
            self.look().await;
        }
    }

    async fn look(&self) {
        let Self { agents, snapshot, metrics } = self;
        let up: HashMap<NodeId, String> = snapshot.addresses_of_up().into_iter().collect();
        agents.keep_unreached(|node| up.contains_key(node));
        let mut asked = agents.all_unreached();
        if up.len() <= MAX_MET {
            let is_new = |(node, advertise): &(&NodeId, &String)| {
                !asked.contains(node) && !agents.is_connected(node, advertise)
            };
            let new: Vec<NodeId> = up.iter().filter(is_new).map(|(node, _)| node.clone()).collect();
            asked.extend(new);
        }
        let attempts = asked
            .iter()
            .filter_map(|node| up.get(node).map(|advertise| agents.link(node, advertise, EVERY)))
            .take(MAX_ATTEMPTS);
        // What they come to is kept by the connections.
        drop(join_all(attempts).await);
        metrics.unreachable(agents.all_unreached().iter().filter(|node| up.contains_key(*node)).count());
    }
}
