//! What it takes to reach the agent of a node: where it is, and a connection to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::NodeId;
use registry::RegistryError;
use tokio::time::{Instant, timeout};

use crate::agent_client::{Agents, outward};
use crate::callers::Rate;
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::snapshot::{Addresses, Snapshot};
use crate::settings::OwnNode;

/// Nodes that the registry is asked for in a second: those that have come since the last snapshot, which is a second old at most. URLs
/// that name no node cost no more than that, however many there are.
const LOOKUPS_PER_SECOND: u32 = 20;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    registry: Arc<RegistryClient>,
    snapshot: Arc<Snapshot>,
    pub(super) agents: Arc<Agents>,
    lookups: Arc<Mutex<Rate>>,
    own_node: Option<OwnNode>,
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
    /// `own_node`: the only node that is reached, if it is one alone.
    pub(crate) fn new(
        registry: Arc<RegistryClient>,
        snapshot: Arc<Snapshot>,
        agents: Arc<Agents>,
        own_node: Option<OwnNode>,
    ) -> Self {
        Self { registry, snapshot, agents, lookups: Arc::default(), own_node }
    }

    /// Whether this is the relay of a node.
    pub(crate) fn is_on_a_node(&self) -> bool {
        self.own_node.is_some()
    }

    /// Connects to the agent of the only node that is reached, unless there is a connection. `None`: any node is reached.
    ///
    /// # Errors
    /// Why the agent cannot be asked, without its address.
    pub(super) async fn check_own_agent(&self, within: Duration) -> Option<Result<(), String>> {
        let own = self.own_node.as_ref()?;
        let checked = async {
            let addresses = self.find(&own.node).await.map_err(|why| match why {
                Unknown::Node => "the registry does not know it".to_owned(),
                Unknown::Registry(error) => error.outward(),
            })?;
            let link = self.agents.link(&own.node, &addresses.advertise, within).await;
            link.map(|_| ()).map_err(|error| outward(&error.to_string()).into_owned())
        };
        let checked = timeout(within, checked).await;
        Some(checked.unwrap_or_else(|_| Err(format!("no connection within {within:?}"))))
    }

    fn may_look_up(&self) -> bool {
        let second = Duration::from_secs(1);
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        lookups.take(Instant::now(), second / LOOKUPS_PER_SECOND, second).is_ok()
    }

    /// Where the node is: as it was last seen, or as the registry knows it. The relay of a node knows no other node, and leads to no
    /// relay.
    pub(super) async fn find(&self, node: &NodeId) -> Result<Addresses, Unknown> {
        let Some(own) = &self.own_node else { return self.look_up(node).await };
        if own.node != *node {
            return Err(Unknown::Node);
        }
        let advertise = match &own.agent {
            Some(agent) => agent.clone(),
            None => self.look_up(node).await?.advertise,
        };
        Ok(Addresses { advertise, viewer_relay: None })
    }

    /// Whether the node has sent no heartbeat for long, as far as is known.
    pub(super) fn is_down(&self, node: &NodeId) -> bool {
        self.snapshot.is_down(node)
    }

    async fn look_up(&self, node: &NodeId) -> Result<Addresses, Unknown> {
        if let Some(addresses) = self.snapshot.addresses_of(node) {
            return Ok(addresses);
        }
        if !self.may_look_up() {
            return Err(Unknown::Node);
        }
        match self.registry.node(node).await {
            Ok(Some(record)) => Ok(Addresses::of(&record.description)),
            Ok(None) => Err(Unknown::Node),
            Err(error) => Err(Unknown::Registry(error)),
        }
    }
}
