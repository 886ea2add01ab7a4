//! The heartbeat of a node on which nothing has changed.
//!
//! An agent sends its whole list once, and each change when it happens. Both carry a [`Digest`] of the list as it is then, which the
//! registry keeps with the node. A [`Keepalive`] carries the digest instead of the list. Where the registry has the same one, both have
//! the same list: the call costs the same with no spawns and with a hundred.
//!
//! A digest does not show that a key was lost or damaged behind the registry's back. So each keepalive also has the registry look at a
//! part of what it holds ([`Check`]): the node itself, or one of its spawns, in turn. Whatever differs, the answer is
//! [`Orders::differs`](crate::Orders::differs), and the agent sends everything at once. Nothing is repaired here.

use std::time::Duration;

use model::{AgentEpoch, GpuSlots, Load, NodeDescription, NodeId, SpawnId, Supply};

use crate::agreement::{Digest, HeardReport};
use crate::report::{AgentIdentity, SpawnReport};

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Keepalive {
    /// The node that the agent has.
    pub node: NodeId,
    /// The life of the agent; a registry that knows another one as the node's applies nothing.
    pub epoch: AgentEpoch,
    /// The last change that the registry has accepted. Nothing later may be on its way.
    pub accepted: u64,
    /// Of what the agent has.
    pub digest: Digest,
    /// How many spawns that is.
    pub spawns: u32,
    /// How many of them have a GPU.
    pub gpu_spawns: u32,
    /// Number of the operator's last order that the agent knows.
    pub generation: u64,
    /// How busy the machine is.
    pub load: Load,
    /// How soon the node can give a spawn.
    pub supply: Supply,
    /// Slots of each GPU and those in use; empty where the server chooses the GPU.
    pub gpus: Vec<GpuSlots>,
    /// What its spawns last reported.
    pub heard: HeardReport,
    /// Pings since the last heartbeat, while the registry asks for them ([`Orders::pings`](crate::Orders::pings)).
    pub pings: Vec<(SpawnId, Duration)>,
    /// What the registry looks at this time.
    pub check: Check,
}

/// What an agent has the registry look at.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// The node's own record, and the indexes that it stands in.
    Node {
        /// What the node offers.
        description: Box<NodeDescription>,
        /// Where the agent keeps its state, and which of its lives there this is.
        identity: AgentIdentity,
    },
    /// The record, the slot and the indexes of one spawn.
    Spawn(Box<SpawnReport>),
    /// Nothing of its own: a node without spawns has no more looked at than others.
    Counts,
}
