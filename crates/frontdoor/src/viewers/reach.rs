//! What it takes to reach the agent of a node: where it is, and a connection to it.

use std::sync::Arc;

use model::NodeId;
use registry::RegistryError;

use crate::agent_client::Agents;
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::snapshot::Snapshot;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) registry: Arc<RegistryClient>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) agents: Arc<Agents>,
}

/// Where a node's agent is not known to be.
#[derive(Debug)]
pub(super) enum Unknown {
    /// There is no such node.
    Node,
    /// The registry cannot be asked, and the node was never seen.
    Registry(RegistryError),
}

impl Reach {
    /// Where the node's agent is: as it was last seen, or as the registry knows it.
    pub(super) async fn find(&self, node: &NodeId) -> Result<String, Unknown> {
        if let Some(advertise) = self.snapshot.advertise_of(node) {
            return Ok(advertise);
        }
        match self.registry.node(node).await {
            Ok(Some(record)) => Ok(record.description.advertise),
            Ok(None) => Err(Unknown::Node),
            Err(error) => Err(Unknown::Registry(error)),
        }
    }
}
