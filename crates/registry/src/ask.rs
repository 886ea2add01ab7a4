//! What front doors ask of the registry: slots, places in line, idempotency keys, lists, and the event stream.
//!
//! Plain data without behaviour. Each type says what the caller must keep to use it again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use model::{
    Audit, Demand, Drain, Event, ExitReason, FarmSlots, NameError, NodeId, OrderKind, Owner, Placement,
    RendererType, SpawnId, SpawnRecord, SpawnState, StartFailure, Tag, TicketId, Timestamp,
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
    /// The caller's place in line. When nothing is free, the caller joins the line with it. The place stays the same
    /// however often the caller asks, and callers that come later do not overtake it. Without one the caller does not wait.
    pub place: Option<TicketId>,
    /// The number that the place had before, if it was given up for a slot on a node that then refused: the caller gets
    /// that number again.
    pub number: Option<u64>,
    /// Whether the request has tried a failing node already: one probe a request is enough.
    pub probed: bool,
    /// The caller that the spawn will belong to.
    pub owner: Option<Owner>,
    /// The most that the owner may have at once: reservations, and spawns that have not ended. Ignored without an owner.
    pub most: Option<u32>,
}

/// A slot taken for a spawn that is not started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The spawn it is for.
    pub spawn: SpawnId,
    /// The node whose slot was taken.
    pub node: NodeId,
    /// gRPC address of the node's agent.
    pub advertise: String,
    /// Why the node was chosen, and whether the outcome of the start is to be reported.
    pub standing: Standing,
    /// The number of the caller's place in line, if it had one. [`Reserve::number`] takes it back.
    pub number: Option<u64>,
    /// How long the server must live after it was ready before the start is a success, and its caller is answered. Zero but for probes
    /// of nodes whose servers ended early, see [`model::Health::hold`].
    pub proof: Duration,
}

/// The health of the node that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// No failure is on record: a success need not be reported.
    #[default]
    Good,
    /// A failure is on record, or starts fail on every node: report every outcome with [`crate::Registry::learn`].
    Watched,
    /// The node is failing or on probation, and this start is its probe. Report every outcome.
    Probe,
    /// The node is failing or on probation, and no other suitable node has room. Report every outcome.
    LastChoice,
}

impl Standing {
    /// The word in logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Watched => "watched",
            Self::Probe => "probe",
            Self::LastChoice => "last-choice",
        }
    }
}

/// The outcomes of one request's starts, in order; at most one [`Outcome`] a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// The renderer of the request.
    pub renderer: RendererType,
    /// The request failed in the same way on every node that it was tried on (two or more): no node is at fault. Several such
    /// requests in a row make a cause of all nodes that suit them, see [`crate::Registry::farm_cause`].
    pub same_everywhere: Option<SameEverywhere>,
    /// The nodes that it was tried on, each with what came of it.
    pub starts: Vec<(NodeId, Outcome)>,
}

/// How a request failed on every node that it was tried on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SameEverywhere {
    /// Why, in words.
    pub reason: String,
    /// What it wanted of a node: a success on a node that suits it shows that the cause is not the farm's.
    pub demand: Demand,
}

/// The outcome of one start, as far as it concerns the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server became ready.
    Ready,
    /// The start failed, and its node counts as the cause.
    Failed(StartFailure),
    /// No information about the node: the request was at fault, or its caller left. A probe may be repeated.
    Nothing,
}

/// The outcome of a [`Reserve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// A slot was taken; the place in line, if any, is given up.
    Slot(Reservation),
    /// Matching nodes are up and eligible, but every slot is taken, or promised to a caller with a lower number in line.
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

/// The outcome of [`crate::Registry::forget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// The node is gone.
    Gone {
        /// Spawns that had not ended and have now, as lost with their node.
        ended: u32,
    },
    /// The node is up, and nothing was done.
    Up,
    /// There is no such node.
    Unknown,
}

/// The outcome of [`crate::Registry::restore_order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The registry has the order again.
    Taken,
    /// It has this order or a later one, or does not know the node.
    NotNeeded,
    /// The order was for a node that an operator has had forgotten since.
    Forgotten,
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

    /// The key within the keys of one owner, so that equal keys of different owners do not meet. Neither part can hold a space.
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

/// The outcome of claiming an idempotency key.
///
/// ```text
/// free ── claim ──▶ claimed ── settle with an answer ──▶ settled ── its time is over ──▶ free
///   ▲                │   └── not renewed for Timing::claim: another claimant may take it over
///   └── settle without one
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The claimant has the key: it works on the request, renews the claim, and settles it.
    Mine,
    /// Another claimant has the key: ask again soon, or when [`Follow::woken`] says so.
    Running,
    /// The request was answered with this.
    Settled(String),
    /// The key came with another request before.
    Conflict,
}

/// A follower's position in the event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The last event or ping seen; 0 to begin with the oldest that is kept.
    pub seq: u64,
    /// The last wake-up seen; 0 before the first.
    pub wakeup: u64,
    /// The last event that the follower has really seen; 0 when it has seen none. A registry that lacks this event, and did
    /// not drop it as one of its oldest, was wiped, replaced, or set back to an older state. Mostly equal to `seq`, which
    /// may be any number. A ping will do for as long as it is kept.
    pub seen: u64,
    /// The registry's identity, if the follower knows it, see [`crate::Registry::incarnation`].
    pub incarnation: Option<Uuid>,
}

/// What happened since a [`Position`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Follow {
    /// In order, none missing after the follower's position, unless `gap` is set.
    pub events: Vec<Event>,
    /// Whether callers that wait, in line or for an idempotent answer, should ask again now.
    pub woken: bool,
    /// Whether events were dropped before the follower could read them, or the registry was wiped, replaced, or set back to
    /// an older state. Then everything read before is void.
    pub gap: bool,
    /// Where to continue; after a gap, a position in what the registry holds now.
    pub position: Position,
}

/// Which spawns to list.
#[derive(Debug, Clone, Default)]
pub struct SpawnFilter {
    /// Only those of this node.
    pub node: Option<NodeId>,
    /// Only those of one of these owners; those of any where none is named.
    pub owners: Vec<Owner>,
    /// Only those in this state.
    pub state: Option<SpawnState>,
    /// Only those that have all of these tags.
    pub tags: Vec<Tag>,
    /// Only those that are rendered so.
    pub renderer: Option<RendererType>,
    /// Only those that ended for this reason.
    pub reason: Option<ExitReason>,
    /// Only those that have ended, at this moment or later.
    pub ended_since: Option<Timestamp>,
    /// Only those that have ended, before this moment.
    pub ended_until: Option<Timestamp>,
    /// The most to return; 0 counts as 1.
    pub limit: usize,
    /// Continue after the page whose [`SpawnPage::next`] this was.
    pub cursor: Option<u64>,
}

/// Along which index a list of spawns goes. Both backends look at the same records in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk<'a> {
    /// Those that have ended, by when they did: of a farm with a million spawns few have ended in the last hour.
    Ends,
    /// Those of the owners that are asked for, by when they began.
    Owners,
    /// Those of this node, likewise.
    Node(&'a NodeId),
    /// All of them, likewise.
    All,
}

impl SpawnFilter {
    pub(crate) fn walk(&self) -> Walk<'_> {
        match (self.owners.as_slice(), &self.node) {
            ([_], _) | ([_, ..], None) => Walk::Owners,
            (_, Some(node)) => Walk::Node(node),
            ([], None) if self.is_about_ends() => Walk::Ends,
            ([], None) => Walk::All,
        }
    }

    /// Whether some of what is looked at may not be wanted.
    #[must_use]
    pub fn sifts(&self) -> bool {
        let walked = match self.walk() {
            Walk::Ends => false,
            Walk::Owners => self.node.is_none(),
            Walk::Node(_) => self.owners.is_empty(),
            Walk::All => true,
        };
        !walked
            || self.is_about_ends()
            || self.state.is_some()
            || self.renderer.is_some()
            || !self.tags.is_empty()
    }

    /// Whether a spawn that ended then, for this reason, is wanted, as far as its end is concerned.
    pub(crate) fn wants_end(&self, ended: Option<Timestamp>, reason: Option<ExitReason>) -> bool {
        self.reason.is_none_or(|wanted| reason == Some(wanted))
            && self.ended_since.is_none_or(|since| ended.is_some_and(|at| at >= since))
            && self.ended_until.is_none_or(|until| ended.is_some_and(|at| at < until))
    }

    /// Whether it says anything of how and when spawns end.
    pub(crate) fn is_about_ends(&self) -> bool {
        self.reason.is_some() || self.ended_since.is_some() || self.ended_until.is_some()
    }
}

/// Spawns that are looked at for one page. A filter that takes few gives short pages, and no call costs more than this.
pub const MAX_LOOKED_AT: usize = 5000;

/// One page of spawns.
#[derive(Debug, Clone, Default)]
pub struct SpawnPage {
    /// Newest first: by when they began, or, where the filter is about ends and of no owner or node, by when they ended. May be fewer than were asked for, or none, and not be the last page: see [`MAX_LOOKED_AT`].
    pub spawns: Vec<SpawnRecord>,
    /// Where the next page starts; absent on the last.
    pub next: Option<u64>,
    /// Records that were looked at for it.
    pub looked_at: usize,
}

/// Which operators' orders to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only those that were given to this node, or are about a spawn there.
    pub node: Option<NodeId>,
    /// Only those of this operator: the name or the id of a key, or an owner.
    pub by: Option<String>,
    /// Only those of this kind.
    pub order: Option<OrderKind>,
    /// Only those about this spawn.
    pub spawn: Option<SpawnId>,
    /// Only those that were given at this time or later.
    pub since: Option<Timestamp>,
    /// Only those that were given before this time.
    pub until: Option<Timestamp>,
    /// The most to return; 0 counts as 1.
    pub limit: usize,
    /// Continue after the page whose [`AuditPage::next`] this was.
    pub cursor: Option<AuditCursor>,
}

impl AuditFilter {
    pub(crate) fn wants(&self, at: Timestamp, audit: &Audit) -> bool {
        let by = |by: &String| {
            let owner = audit.owner.as_ref().map(Owner::as_str);
            audit.by.as_ref() == Some(by)
                || owner.is_some_and(|owner| owner == by || owner.strip_prefix("key:") == Some(by))
        };
        self.node.as_ref().is_none_or(|node| audit.node.as_ref() == Some(node))
            && self.by.as_ref().is_none_or(by)
            && self.order.is_none_or(|order| audit.order == order)
            && self.spawn.is_none_or(|spawn| audit.spawn == Some(spawn))
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
    }
}

/// One page of operators' orders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// When each was given, by the registry's clock, and what it was; newest first.
    pub orders: Vec<(Timestamp, Audit)>,
    /// Where the next page starts; absent on the last.
    pub next: Option<AuditCursor>,
}

/// A place among the orders that are kept: when it was recorded, and the place among those of the same millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditCursor(pub(crate) u64, pub(crate) u64);

impl fmt::Display for AuditCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl FromStr for AuditCursor {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parts = s.split_once('-').and_then(|(ms, n)| Some(Self(ms.parse().ok()?, n.parse().ok()?)));
        // No order is of 1970, and Redis takes nothing below 0-0.
        let parts = parts.filter(|cursor| cursor.0 > 0);
        parts.ok_or("must be the nextCursor of the page before")
    }
}

/// What a front door adds to the counts of a minute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests for a spawn that were answered with an error, by its code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Slots of the farm now, if they are known.
    pub slots: Option<FarmSlots>,
}

/// A spawn, and where its node's agent is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The spawn with its events.
    pub spawn: SpawnRecord,
    /// gRPC address of its node's agent; absent when the node is not known any more.
    pub advertise: Option<String>,
}

/// The longest that [`crate::Registry::follow`] blocks. Longer waits are cut to this, so that a dead connection is noticed.
pub const MAX_FOLLOW: Duration = Duration::from_secs(5);

/// The data of an operator's event: the drain, and who gave the order.
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
