//! The heartbeat of a node on which nothing has changed, and the digest that shows it.
//!
//! An agent sends its whole list once, and each change when it happens. Both carry a [`Digest`] of the list as it is then, which the
//! registry keeps with the node. A [`Keepalive`] carries the digest instead of the list. Where the registry has the same one, both have
//! the same list: the call costs the same with no spawns and with a hundred.
//!
//! A digest does not show that a key was lost or damaged behind the registry's back. So each keepalive also has the registry look at a
//! part of what it holds ([`Check`]): the node itself, or one of its spawns, in turn. Whatever differs, the answer is
//! [`Orders::differs`](crate::Orders::differs), and the agent sends everything at once. Nothing is repaired here.

use std::fmt;
use std::time::Duration;

use model::{AgentEpoch, GpuSlots, Load, NodeDescription, NodeId, SpawnId, Supply};

use crate::report::{Identity, SpawnReport};

/// Stands for everything that an agent and the registry must agree on. The agent makes it; the registry only compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How a report changes what both sides agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// Of the list before the report's changes, as the registry last accepted it. It counts only without a list: the registry goes on
    /// from here, or lacks something.
    pub before: Option<Digest>,
    /// Of the list with the report's changes.
    pub after: Digest,
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Keepalive {
    /// The node.
    pub node: NodeId,
    /// The agent's life.
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
    /// Each GPU's use.
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
        /// The agent's identity.
        identity: Identity,
    },
    /// The record, the slot and the indexes of one spawn.
    Spawn(Box<SpawnReport>),
    /// Nothing of its own: a node without spawns has no more looked at than others.
    Counts,
}

/// When the spawns of a node last reported, in a form that does not grow with their number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeardReport {
    /// The age of the oldest last report among the spawns that report as they should. `None`: not known.
    pub since: Option<Duration>,
    /// Those that are late: each with the age of its last report, if it has ever reported. At most [`Self::MAX_LATE`].
    pub late: Vec<(SpawnId, Option<Duration>)>,
}

impl HeardReport {
    /// Where more are late, nothing is said of any.
    pub const MAX_LATE: usize = 16;
}

/// What the registry found to be different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Difference {
    /// It does not know the node, or another epoch has it: it was wiped, or set back.
    Unknown,
    /// The node is not up: its heartbeats were late.
    Silent,
    /// It has not applied the changes that it had accepted: it was set back.
    Changes,
    /// Its digest is another one.
    Digest,
    /// It lacks an operator's order.
    Order,
    /// A slot is not held, or by another spawn.
    Slots,
    /// A spawn's record is lost or damaged.
    Record,
    /// The node's record is damaged.
    Node,
    /// An index lacks something.
    Index,
}

impl Difference {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Silent,
        Self::Changes,
        Self::Digest,
        Self::Order,
        Self::Slots,
        Self::Record,
        Self::Node,
        Self::Index,
    ];

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Silent => "silent",
            Self::Changes => "changes",
            Self::Digest => "digest",
            Self::Order => "order",
            Self::Slots => "slots",
            Self::Record => "record",
            Self::Node => "node",
            Self::Index => "index",
        }
    }

    /// The difference of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|difference| difference.as_str() == name)
    }
}
