//! The state of a farm as plain data: [`Farm`] holds everything, and the other files of this directory change it.
//!
//! Nothing here reads a clock or waits. The caller sets [`Farm::now`] before each step, so every step is atomic under the
//! caller's lock and the same input gives the same output, ties at random aside.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{
    AgentEpoch, Availability, Drain, Eligibility, EventKind, GpuSlots, Health, HealthState, Heard, Load,
    NodeDescription, NodeId, NodeKind, Owner, RendererType, SpawnId, Supply, Timestamp, Timing,
};
use serde_json::Map;
use uuid::Uuid;

use super::audit::Audits;
use super::claims::Claims;
use super::deliveries::Deliveries;
use super::history::History;
use super::line::Line;
use super::minutes::Minutes;
use super::owned::Owned;
use super::pings::PingQueue;
use super::renderers::Renderers;
use super::shelf::Score;
use super::stock::Stock;
use crate::agreement::Digest;
use crate::ask::{Follow, Position};
use crate::cause::Cause;
use crate::judge::Judgement;
use crate::permits::Permits;
use crate::pings::WantedPings;
use crate::report::AgentIdentity;

/// Why a slot is taken. `slots.rs` draws how one becomes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// By a reservation that the agent has not reported yet. It is the front door's.
    Reserved,
    /// By a reservation that was given up. The agent must confirm that the spawn will never start.
    Abandoned,
    /// By a spawn that the agent has reported. It is the agent's.
    Running,
}

/// A slot that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotEntry {
    pub(super) hold: Hold,
    /// Whether a GPU slot goes with it.
    pub(super) gpu: bool,
    pub(super) owner: Option<Owner>,
}

/// What a node has none left of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    Slots,
    GpuSlots,
}

/// A node as the registry knows it. `description` to `beat` are the agent's, `eligibility` to `generation` the operator's.
#[derive(Debug, Clone)]
pub(super) struct NodeState {
    pub(super) eligibility: Eligibility,
    pub(super) availability: Availability,
    pub(super) description: NodeDescription,
    pub(super) epoch: AgentEpoch,
    pub(super) identity: AgentIdentity,
    pub(super) load: Load,
    pub(super) supply: Supply,
    pub(super) gpus: Vec<GpuSlots>,
    pub(super) beat: Timestamp,
    pub(super) drain: Option<Drain>,
    /// Number of the operator's order.
    pub(super) generation: u64,
    /// Every taken slot. The length is the node's use.
    pub(super) held: HashMap<SpawnId, SlotEntry>,
    /// What the agent must end or never start, until it reports that it has forgotten it.
    pub(super) abandoned: BTreeSet<SpawnId>,
    /// Reservations that expired: the agent must not start them any more.
    pub(super) expired: BTreeSet<SpawnId>,
    /// The serial of the last change of this epoch that was applied.
    pub(super) serial: u64,
    /// What both sides agree on.
    pub(super) digest: Option<Digest>,
    pub(super) heard: Heard,
    pub(super) health: Renderers<Health>,
}

impl NodeState {
    pub(super) fn used(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn gpu_used(&self) -> u32 {
        u32::try_from(self.held.values().filter(|held| held.gpu).count()).unwrap_or(u32::MAX)
    }

    /// The renderers for which starts fail there.
    pub(super) fn failing(&self) -> Vec<RendererType> {
        let fails = |renderer: &RendererType| self.health.get(*renderer).state == HealthState::Failing;
        [RendererType::Csr, RendererType::Ssr].into_iter().filter(fails).collect()
    }

    pub(super) fn may_place(&self) -> bool {
        self.availability == Availability::Up && self.eligibility == Eligibility::Eligible
    }

    pub(super) fn offers(&self, renderer: RendererType) -> bool {
        match renderer {
            RendererType::Csr => self.description.csr,
            RendererType::Ssr => self.description.ssr,
        }
    }

    /// The node's load when it is offered one more spawn, which is that of slots or GPU slots, the fuller of them; or why there is
    /// no room.
    pub(super) fn room(&self, renderer: RendererType) -> Result<Score, NoRoom> {
        let (used, slots) = (self.used(), self.description.slots);
        if used >= slots {
            return Err(NoRoom::Slots);
        }
        let score = Score::ratio(used, slots);
        match (renderer, self.description.gpu_total()) {
            (RendererType::Ssr, Some(total)) => {
                let gpu_used = self.gpu_used();
                if gpu_used >= total {
                    return Err(NoRoom::GpuSlots);
                }
                Ok(score.max(Score::ratio(gpu_used, total)))
            }
            _ => Ok(score),
        }
    }
}

/// The whole state of a farm.
#[derive(Debug, Clone)]
pub(super) struct Farm {
    /// The registry's identity. It changes once a follower has found that the registry went back to an older state.
    pub(super) incarnation: Uuid,
    pub(super) now: Timestamp,
    /// When the registry was made or found to have gone back: agents may not have filled it yet.
    pub(super) began: Timestamp,
    pub(super) timing: Timing,
    pub(super) nodes: BTreeMap<NodeId, NodeState>,
    /// When operators had nodes forgotten, and the number up to which orders to them are not repeated.
    pub(super) forgotten: HashMap<NodeId, (Timestamp, u64)>,
    pub(super) stock: BTreeMap<(NodeKind, RendererType), Stock>,
    /// What was abandoned on nodes that are not known (yet). Redis drops such entries after `forget`; here they stay until
    /// the node reports, bounded by the life of the process.
    pub(super) ahead: HashMap<NodeId, BTreeSet<SpawnId>>,
    /// Nodes that are up or stale, by their last heartbeat: the front is the most silent.
    pub(super) beats: BTreeSet<(Timestamp, NodeId)>,
    /// Reservations by when they expire.
    pub(super) expiries: BTreeSet<(Timestamp, SpawnId, NodeId)>,
    pub(super) owned: Owned,
    pub(super) line: Line,
    pub(super) history: History,
    pub(super) audits: Audits,
    pub(super) minutes: Minutes,
    pub(super) claims: Claims,
    pub(super) deliveries: Deliveries,
    pub(super) permits: Permits,
    pub(super) judged: Judgement,
    pub(super) cause: Option<Cause>,
    pub(super) wakeups: u64,
    pub(super) pings: PingQueue,
    /// A request has failed in the same way wherever it was tried less than a minute ago: until then, second tries go to
    /// other nodes than the least loaded ones.
    pub(super) alike_until: Timestamp,
}

impl Farm {
    pub(super) fn new(timing: Timing, now: Timestamp) -> Self {
        Self {
            incarnation: Uuid::new_v4(),
            now,
            began: now,
            nodes: BTreeMap::new(),
            forgotten: HashMap::new(),
            stock: BTreeMap::new(),
            ahead: HashMap::new(),
            beats: BTreeSet::new(),
            expiries: BTreeSet::new(),
            owned: Owned::default(),
            line: Line::default(),
            history: History::new(&timing),
            audits: Audits::new(&timing),
            minutes: Minutes::default(),
            claims: Claims::new(&timing),
            deliveries: Deliveries::default(),
            permits: Permits::new(),
            judged: Judgement::default(),
            cause: None,
            wakeups: 0,
            pings: PingQueue::default(),
            alike_until: Timestamp::default(),
            timing,
        }
    }

    pub(super) fn after(&self, time: std::time::Duration) -> Timestamp {
        Timestamp::from_millis(
            self.now.millis().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    pub(super) fn publish_node(&mut self, kind: EventKind, node: &NodeId) {
        self.history.publish(self.now, self.now, kind, node, None, Map::new());
    }

    pub(super) fn position(&self) -> Position {
        let (seq, seen) = (self.history.last_seq, self.history.last_event);
        Position { seq, wakeup: self.wakeups, seen, incarnation: Some(self.incarnation) }
    }

    pub(super) fn follow(&mut self, after: Position, pings: Option<&WantedPings>) -> Follow {
        let position = self.position();
        if let Some(wanted) = pings {
            self.pings.want(wanted, self.now);
        }
        let is_another = after.incarnation.is_some_and(|known| known != self.incarnation);
        let has_had = |seq| self.history.has_had(seq) || self.pings.has(seq);
        if is_another || (after.seen > 0 && !has_had(after.seen)) {
            // The same registry in an older state: others learn from its new identity.
            if !is_another && after.incarnation.is_some() {
                (self.incarnation, self.began) = (Uuid::new_v4(), self.now);
            }
            return Follow { gap: true, woken: true, position: self.position(), ..Follow::default() };
        }
        let (mut events, gap) = self.history.after(after.seq);
        if pings.is_some() {
            events.extend(self.pings.after(after.seq));
            events.sort_by_key(|event| event.seq);
        }
        Follow { events, woken: self.wakeups != after.wakeup, gap, position }
    }
}
