//! What an agent and the registry agree on: a digest, what the registry may find to be different, and when spawns last reported.

use std::fmt;
use std::time::Duration;

use model::SpawnId;

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
    /// Every difference, for metrics that begin with 0.
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
