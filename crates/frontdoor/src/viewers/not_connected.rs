//! Why a viewer is not connected: a word for metrics and logs, and details for the log alone. Whatever is wrong with a URL is one and
//! the same reason, so that nothing can be learned by trying.

use model::NodeId;
use registry::RegistryError;

use crate::agent_client::AgentError;

/// Why a viewer is not connected.
#[derive(Debug)]
pub(crate) enum NotConnected {
    /// There is nothing that this URL may reach.
    NotFound,
    /// The spawn has a viewer.
    Taken,
    /// Too many are connecting.
    Busy,
    /// It is not known whether there is such a node.
    Registry(RegistryError),
    /// The node's agent cannot be asked.
    Agent(NodeId, AgentError),
    /// The spawn's server cannot be reached, or did not answer like one.
    Server(NodeId, String),
    /// The relay of the node cannot be reached, is not the one of the node, or did not connect the viewer.
    Relay(NodeId, String),
}

impl NotConnected {
    /// The word in metrics and logs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Taken => "already-connected",
            Self::Busy => "busy",
            Self::Registry(_) => "registry",
            Self::Agent(..) => "agent",
            Self::Server(..) => "server",
            Self::Relay(..) => "relay",
        }
    }

    /// What the log has beside the word.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::NotFound | Self::Taken | Self::Busy => None,
            Self::Registry(error) => Some(error.to_string()),
            Self::Agent(node, error) => Some(format!("{node}: {error}")),
            Self::Server(node, why) | Self::Relay(node, why) => Some(format!("{node}: {why}")),
        }
    }
}
