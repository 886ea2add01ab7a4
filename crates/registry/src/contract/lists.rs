//! The calls that list nodes and what runs on them, page by page. They change nothing; a record that cannot be read is left out, never the
//! rest of its page.

use model::{NodeId, SpawnRecord};

use super::{Backend, Registry};
use crate::error::RegistryError;
use crate::node_list::{NodeFilter, NodePage};

impl Registry {
    /// A page of nodes, by name.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn nodes_page(&self, filter: &NodeFilter) -> Result<NodePage, RegistryError> {
        both!(self, b => b.nodes_page(filter))
    }

    /// The spawns of these nodes that have not ended, without their events, in no order. The cost grows with their number:
    /// ask for a bounded number of nodes at a time.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn living(&self, nodes: &[NodeId]) -> Result<Vec<SpawnRecord>, RegistryError> {
        both!(self, b => b.living(nodes))
    }
}
