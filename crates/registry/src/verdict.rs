//! Why a node would get a spawn, and why each other node would not.
//!
//! [`Registry::assess`] says what each node has, and [`Registry::forecast`] which node a reserve would take. Both come out of the
//! code that places: the indexes of the registry are filled by the same functions that make an [`Assessment`], and a forecast is
//! a reserve that stops before it takes the slot. [`Judge`] puts the two together, one [`Verdict`] a node. The front door's
//! fallback placement makes assessments of its own snapshot, so that its answers read the same.
//!
//! Failure: the two calls are two steps, and the farm moves between them. The forecast's node counts as chosen whatever its
//! assessment says.
//!
//! [`Registry::assess`]: crate::Registry::assess
//! [`Registry::forecast`]: crate::Registry::forecast

use std::borrow::Cow;
use std::sync::Arc;

use model::{Availability, Demand, Eligibility, Misfit, NodeId, NodeKind, RendererType};

use crate::ask::Standing;

/// What a node has for one more spawn of a renderer, whatever its eligibility and availability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Room {
    /// The node does not offer the renderer.
    NotOffered,
    /// There is room; the load by which nodes are compared, 0 to 1.
    Free(f64),
    /// Every slot is taken.
    Full,
    /// Every GPU slot is taken.
    GpuFull,
    /// The registry cannot read what it keeps of the node; a heartbeat repairs it.
    Unreadable,
}

/// What a node has for one renderer.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Slots and GPU slots.
    pub room: Room,
    /// Why the node is failing for this renderer; `None` when it is not.
    pub failing: Option<String>,
    /// How much later than others the node gives a spawn, [`model::Supply::handicap`]: the smaller one decides between loads that are equal.
    pub handicap: u8,
}

impl Offer {
    /// Of a renderer that the node does not offer.
    #[must_use]
    pub fn not_offered() -> Self {
        Self { room: Room::NotOffered, failing: None, handicap: 0 }
    }
}

/// What decides whether a node gets a spawn, as of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    /// The node that is assessed.
    pub node: NodeId,
    /// Its pool and labels; `None` when the registry cannot read them.
    pub kind: Option<Arc<NodeKind>>,
    /// What the operator wants.
    pub eligibility: Eligibility,
    /// Whether heartbeats arrive, by the registry's clock.
    pub availability: Availability,
    /// Slots that are taken, and all of them.
    pub slots: (u32, u32),
    /// The same of GPU slots; `None` when GPUs do not limit the node.
    pub gpus: Option<(u32, u32)>,
    /// What it has for client-side rendering.
    pub csr: Offer,
    /// What it has for server-side rendering.
    pub ssr: Offer,
}

impl Assessment {
    /// What the node has for this renderer.
    #[must_use]
    pub fn offer(&self, renderer: RendererType) -> &Offer {
        match renderer {
            RendererType::Csr => &self.csr,
            RendererType::Ssr => &self.ssr,
        }
    }
}

/// What a reserve would come to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The outcome, but for the slot, which is not taken.
    pub outcome: Foreseen,
    /// Kinds of node whose free slots are promised to callers in line.
    pub promised: Vec<NodeKind>,
}

/// What a reserve would answer: [`crate::Reserved`] without a slot that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreseen {
    /// A slot on this node. Where several are equally good, one of them at random.
    Slot {
        /// The node that would be chosen.
        node: NodeId,
        /// Whether it is chosen because it is the best, as a probe, or for want of another.
        standing: Standing,
    },
    /// Every slot is taken or promised.
    Full,
    /// No up and eligible node matches; `known`: some would if they were.
    NoMatch {
        /// Whether matching nodes are known that are not up or not eligible.
        known: bool,
    },
    /// The owner has as many as it may have.
    OverQuota,
}

/// Why a node gets a spawn or not. A node that does not get it for several reasons has the first of them in the order of this list,
/// from [`Verdict::Unreadable`] up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict<'a> {
    /// The node would get it.
    Chosen,
    /// As good as the chosen node: chance decides.
    Equal,
    /// It has room, and the chosen node is better.
    Outranked,
    /// Its free slots are promised to callers in line, or came free a moment ago.
    InLine,
    /// It has room, and the owner has as many spawns as it may have.
    OverQuota,
    /// Starts fail there; the reason of the last one. Such a node is chosen as a probe, or where no other has room.
    Failing(&'a str),
    /// Every GPU slot is taken.
    GpuFull,
    /// Every slot is taken.
    Full,
    /// An operator is emptying it.
    Draining,
    /// An operator has closed it.
    Cordoned,
    /// Its heartbeats are late.
    Stale,
    /// It has been silent for too long.
    Down,
    /// It does not offer the renderer.
    Renderer,
    /// Its pool or labels are not those that the request wants.
    Misfit(Misfit<'a>),
    /// The registry cannot read what it keeps of the node; a heartbeat repairs it.
    Unreadable,
}

impl Verdict<'_> {
    /// The verdict for programs, and the key under which nodes are counted.
    #[must_use]
    pub fn key(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Chosen => "chosen",
            Self::Equal => "equal",
            Self::Outranked => "outranked",
            Self::InLine => "in line",
            Self::OverQuota => "quota",
            Self::Failing(_) => "failing",
            Self::GpuFull => "gpu full",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Cordoned => "cordoned",
            Self::Stale => "stale",
            Self::Down => "down",
            Self::Renderer => "renderer",
            Self::Misfit(Misfit::Pool) => "pool",
            Self::Misfit(Misfit::Dedicated) => "dedicated",
            Self::Misfit(Misfit::Label { name, .. }) => return Cow::Owned(format!("label {name}")),
            Self::Unreadable => "unreadable",
        })
    }

    /// How near the node is to being chosen; 0 is chosen.
    #[must_use]
    pub fn rank(&self) -> u8 {
        match self {
            Self::Chosen => 0,
            Self::Equal => 1,
            Self::Outranked => 2,
            Self::InLine => 3,
            Self::OverQuota => 4,
            Self::Failing(_) => 5,
            Self::GpuFull => 6,
            Self::Full => 7,
            Self::Draining => 8,
            Self::Cordoned => 9,
            Self::Stale => 10,
            Self::Down => 11,
            Self::Renderer => 12,
            Self::Misfit(_) => 13,
            Self::Unreadable => 14,
        }
    }
}

/// Finds the verdict on each node for one demand.
#[derive(Debug)]
pub struct Judge<'a> {
    demand: &'a Demand,
    forecast: &'a Forecast,
    chosen: Option<Chosen<'a>>,
}

#[derive(Debug)]
struct Chosen<'a> {
    node: &'a NodeId,
    standing: Standing,
    /// Its load and its handicap; `None` when the farm has moved since the forecast: then no node is known to be as good.
    score: Option<(f64, u8)>,
}

impl<'a> Judge<'a> {
    /// For what was foreseen for this demand, with all nodes.
    #[must_use]
    pub fn new(demand: &'a Demand, forecast: &'a Forecast, nodes: &'a [Assessment]) -> Self {
        let chosen = match &forecast.outcome {
            Foreseen::Slot { node, standing } => {
                let its = nodes.iter().find(|one| one.node == *node);
                let score = its.and_then(|its| match its.offer(demand.renderer) {
                    Offer { room: Room::Free(load), handicap, .. } => Some((*load, *handicap)),
                    _ => None,
                });
                Some(Chosen { node, standing: *standing, score })
            }
            Foreseen::Full | Foreseen::NoMatch { .. } | Foreseen::OverQuota => None,
        };
        Self { demand, forecast, chosen }
    }

    /// Whether the chosen node has a warm server for the demand.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.chosen.as_ref().and_then(|chosen| chosen.score).is_some_and(|(_, handicap)| handicap == 0)
    }

    /// Whether a node is as loaded as the chosen one, and gives a spawn later: for want of a warm server, or because more starts wait there.
    #[must_use]
    pub fn is_slower(&self, of: &Assessment) -> bool {
        self.verdict(of) == Verdict::Outranked
            && self.compared(of).is_some_and(|(same, slower)| same && slower)
    }

    /// Whether its load is that of the chosen node, and its handicap is greater.
    fn compared(&self, of: &Assessment) -> Option<(bool, bool)> {
        let (best, least) = self.chosen.as_ref()?.score?;
        let offer = of.offer(self.demand.renderer);
        let Room::Free(load) = offer.room else { return None };
        // Equal loads are equal fractions, and so the same number to the last bit.
        Some((best.to_bits() == load.to_bits(), offer.handicap > least))
    }

    /// The verdict on a node.
    #[must_use]
    pub fn verdict(&self, of: &'a Assessment) -> Verdict<'a> {
        if self.chosen.as_ref().is_some_and(|chosen| *chosen.node == of.node) {
            return Verdict::Chosen;
        }
        let Some(kind) = of.kind.as_deref() else { return Verdict::Unreadable };
        if let Some(misfit) = self.demand.misfit(kind) {
            return Verdict::Misfit(misfit);
        }
        let offer = of.offer(self.demand.renderer);
        if offer.room == Room::NotOffered {
            return Verdict::Renderer;
        }
        match (of.availability, of.eligibility) {
            (Availability::Down, _) => return Verdict::Down,
            (Availability::Stale, _) => return Verdict::Stale,
            (Availability::Up, Eligibility::Cordoned) => return Verdict::Cordoned,
            (Availability::Up, Eligibility::Draining) => return Verdict::Draining,
            (Availability::Up, Eligibility::Eligible) => {}
        }
        match offer.room {
            Room::NotOffered => Verdict::Renderer,
            Room::Unreadable => Verdict::Unreadable,
            Room::Full => Verdict::Full,
            Room::GpuFull => Verdict::GpuFull,
            Room::Free(_) => self.with_room(kind, of, offer.failing.as_deref()),
        }
    }

    fn with_room(&self, kind: &NodeKind, of: &Assessment, failing: Option<&'a str>) -> Verdict<'a> {
        if self.forecast.outcome == Foreseen::OverQuota {
            return Verdict::OverQuota;
        }
        if self.forecast.promised.contains(kind) {
            return Verdict::InLine;
        }
        let equal = self.chosen.as_ref().is_some_and(|chosen| {
            let (same, slower) = self.compared(of).unwrap_or_default();
            match chosen.standing {
                Standing::Good | Standing::Watched => same && !slower && failing.is_none(),
                // Failing nodes are compared by their loads alone.
                Standing::LastChoice => same && failing.is_some(),
                Standing::Probe => false,
            }
        });
        match (equal, failing, &self.chosen) {
            (true, ..) => Verdict::Equal,
            (false, Some(reason), _) => Verdict::Failing(reason),
            (false, None, Some(_)) => Verdict::Outranked,
            (false, None, None) => Verdict::InLine,
        }
    }
}
