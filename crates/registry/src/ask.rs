//! What front doors ask of the registry.

use std::str::FromStr;
use std::time::Duration;

use model::{
    Demand, Drain, Event, NameError, NodeId, Owner, Placement, RendererType, SpawnId, SpawnRecord,
    SpawnState, StartFailure, TicketId,
};
use serde_json::{Map, Value};
use uuid::Uuid;

/// A request for one slot.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// The spawn the slot is for; a fresh id for every attempt.
    pub spawn: SpawnId,
    /// What the node must offer.
    pub demand: Demand,
    /// Which of the suitable nodes.
    pub placement: Placement,
    /// Nodes that must not be chosen, because they have just refused.
    pub avoid: Vec<NodeId>,
    /// The caller's place in line. When nothing is free the caller is put in line (once; its place stays the same
    /// however often it asks) and others who come later do not overtake it.
    pub place: Option<TicketId>,
    /// The number that the place had before it was given up for a slot on a node that then refused: the place is taken
    /// there again.
    pub number: Option<u64>,
    /// Whether the request has tried a failing node already: one probe a request is enough.
    pub probed: bool,
    /// Whose spawn it will be.
    pub owner: Option<Owner>,
    /// The most that the owner may have at once: reservations, and spawns that have not ended. Means nothing without an
    /// owner.
    pub most: Option<u32>,
}

/// A slot taken for a spawn that is not started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The spawn it is for.
    pub spawn: SpawnId,
    /// Where.
    pub node: NodeId,
    /// gRPC address of the node's agent.
    pub advertise: String,
    /// Why the node was chosen, and whether the registry wants to know what comes of it.
    pub standing: Standing,
    /// The number of the caller's place in line, if it had one: with it the place can be had again, see
    /// [`Reserve::number`].
    pub number: Option<u64>,
}

/// How a node stands that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nothing speaks against it: a success need not be reported.
    #[default]
    Good,
    /// Something does, or starts fail on every node: every outcome is to be reported with [`crate::Registry::learn`].
    Watched,
    /// It is failing, and this start is its probe. Every outcome is to be reported.
    Probe,
    /// It is failing, and no other suitable node has room. Every outcome is to be reported.
    LastChoice,
}

/// What the starts of one request came to, in order; no more than one [`Outcome`] a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// The renderer of the request.
    pub renderer: RendererType,
    /// The reason, when the same request failed in the same way on every node that it was tried on (two or more): no node
    /// is at fault. After several such requests in a row it is taken for the farm's, see
    /// [`crate::Registry::farm_cause`].
    pub same_everywhere: Option<String>,
    /// Node by node.
    pub starts: Vec<(NodeId, Outcome)>,
}

/// What one start came to, as far as it says something of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server became ready.
    Ready,
    /// The start failed, and its node counts as the cause.
    Failed(StartFailure),
    /// Nothing about the node: the request was at fault, or its caller left. A probe may be repeated.
    Nothing,
}

/// What came of a [`Reserve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// A slot was taken; the place in line, if any, is given up.
    Slot(Reservation),
    /// Matching nodes are up and eligible, but every slot is taken or promised to somebody who came first.
    Full,
    /// No up and eligible node matches.
    NoMatch {
        /// Whether matching nodes are known that are cordoned, draining, stale or down: waiting may help.
        known: bool,
        /// Whether the registry may not know its nodes yet: it knows none at all, or was wiped a moment ago.
        fresh: bool,
    },
    /// The owner has as many as it may have; the place in line, if any, is given up.
    OverQuota,
}

/// `Idempotency-Key` as clients send it: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same key as this owner's own: what others call alike is another one. Neither part has a space.
    #[must_use]
    pub fn of(&self, owner: &Owner) -> Self {
        Self(format!("{owner} {}", self.0))
    }
}

impl FromStr for IdempotencyKey {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        if s.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(found) = s.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(NameError::BadCharacter { allowed: "visible ASCII characters", found });
        }
        if s.len() > 255 {
            return Err(NameError::TooLong { max: 255, len: s.len() });
        }
        Ok(Self(s.to_owned()))
    }
}

/// What came of claiming an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nobody works on it: the claimant does now, renews its claim, and settles it.
    Mine,
    /// Somebody works on it: ask again soon, or when [`Follow::nudged`] says so.
    Running,
    /// This was the answer.
    Settled(String),
    /// The key came with another request before.
    Conflict,
}

/// Where a follower of the event stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The last event seen; 0 to begin with the oldest that is kept.
    pub seq: u64,
    /// The last nudge seen; 0 before the first.
    pub nudge: u64,
    /// The last event of which the follower knows that it was there; 0 when it knows of none. A registry that has neither it
    /// nor a good reason (it was dropped as one of the oldest) was wiped, replaced, or went back to an older state. Mostly the
    /// same as `seq`, but `seq` may be any number.
    pub seen: u64,
    /// The registry's identity, if the follower knows it, see [`crate::Registry::incarnation`].
    pub incarnation: Option<Uuid>,
}

/// What happened since a [`Position`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Follow {
    /// In order, none missing from the follower's position on, unless `gap`.
    pub events: Vec<Event>,
    /// Whether those who wait (in line, or for an idempotent answer) should ask again now.
    pub nudged: bool,
    /// Whether events were dropped before the follower could read them, or the registry is not the one that it was: wiped,
    /// replaced, or back in an older state. Then what was read from it before is void.
    pub gap: bool,
    /// Where to go on; after a gap this is a place in what the registry has now.
    pub position: Position,
}

/// Which spawns to list.
#[derive(Debug, Clone, Default)]
pub struct SpawnFilter {
    /// Only those of this node.
    pub node: Option<NodeId>,
    /// Only those of this owner.
    pub owner: Option<Owner>,
    /// Only those in this state.
    pub state: Option<SpawnState>,
    /// Most to return; at least 1.
    pub limit: usize,
    /// Go on after the page that gave this.
    pub cursor: Option<u64>,
}

/// One page of spawns.
#[derive(Debug, Clone, Default)]
pub struct SpawnPage {
    /// Newest first.
    pub spawns: Vec<SpawnRecord>,
    /// Where the next page starts; absent on the last.
    pub next: Option<u64>,
}

/// A spawn, and where its node's agent is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The spawn with its events.
    pub spawn: SpawnRecord,
    /// gRPC address of its node's agent; absent when the node is not known any more.
    pub advertise: Option<String>,
}

/// The longest a [`crate::Registry::follow`] blocks; longer waits are cut to this, so that a dead link is noticed.
pub const LONGEST_FOLLOW: Duration = Duration::from_secs(5);

/// What an event says of an operator's order: who gave it, and the drain.
pub(crate) fn operator_data(drain: Option<&Drain>, by: Option<&str>) -> Map<String, Value> {
    let mut data = Map::new();
    if let Some(Ok(Value::Object(drain))) = drain.map(serde_json::to_value) {
        data = drain;
    }
    if let Some(by) = by {
        data.insert("by".to_owned(), by.into());
    }
    data
}
