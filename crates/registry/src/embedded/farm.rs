//! The whole state of a farm as plain data. The caller sets [`Farm::now`]; nothing here reads a clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use model::{
    AgentEpoch, Availability, Drain, Eligibility, EventKind, GpuSlots, Health, HealthState, Load,
    NodeDescription, NodeId, NodeKind, Owner, Placement, RendererType, SpawnId, TicketId, Timestamp, Timing,
};
use serde_json::Map;
use uuid::Uuid;

use super::claims::Claims;
use super::history::History;
use super::line::Line;
use super::owned::Owned;
use super::probes::Probes;
use super::renderers::Renderers;
use super::shelf::{Score, Shelf};
use crate::ask::{Follow, Position, Reservation, Reserve, Reserved, Standing};
use crate::cause::Cause;
use crate::judge::Judgement;
use crate::permits::Permits;
use crate::report::Identity;

/// Why a slot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// By a reservation the agent has not reported yet.
    Reserved,
    /// By a reservation that was given up; the agent must say that it will never start.
    Abandoned,
    /// By a spawn the agent has reported.
    Running,
}

/// A slot that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) hold: Hold,
    /// Whether a GPU slot goes with it.
    pub(super) gpu: bool,
    pub(super) owner: Option<Owner>,
}

/// One node.
#[derive(Debug)]
pub(super) struct NodeState {
    pub(super) eligibility: Eligibility,
    pub(super) availability: Availability,
    pub(super) description: NodeDescription,
    pub(super) epoch: AgentEpoch,
    pub(super) identity: Identity,
    pub(super) load: Load,
    pub(super) gpus: Vec<GpuSlots>,
    pub(super) beat: Timestamp,
    pub(super) drain: Option<Drain>,
    /// Number of the operator's order.
    pub(super) generation: u64,
    /// Every taken slot.
    pub(super) held: HashMap<SpawnId, Held>,
    pub(super) abandoned: BTreeSet<SpawnId>,
    /// Reservations that expired: the agent must not start them any more.
    pub(super) expired: BTreeSet<SpawnId>,
    /// The last change applied.
    pub(super) serial: u64,
    pub(super) health: Renderers<Health>,
}

impl NodeState {
    pub(super) fn used(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn gpu_used(&self) -> u32 {
        u32::try_from(self.held.values().filter(|held| held.gpu).count()).unwrap_or(u32::MAX)
    }

    fn may_place(&self) -> bool {
        self.availability == Availability::Up && self.eligibility == Eligibility::Eligible
    }

    pub(super) fn offers(&self, renderer: RendererType) -> bool {
        match renderer {
            RendererType::Csr => self.description.csr,
            RendererType::Ssr => self.description.ssr,
        }
    }

    /// The node's load for one more spawn of this kind; `None` when there is no room.
    fn room(&self, renderer: RendererType) -> Option<Score> {
        let (used, slots) = (self.used(), self.description.slots);
        if used >= slots {
            return None;
        }
        let score = Score::ratio(used, slots);
        match (renderer, self.description.gpu_total()) {
            (RendererType::Ssr, Some(total)) => {
                let gpu_used = self.gpu_used();
                (gpu_used < total).then(|| score.max(Score::ratio(gpu_used, total)))
            }
            _ => Some(score),
        }
    }
}

/// Nodes of one kind that offer one renderer.
#[derive(Debug, Default)]
struct Stock {
    /// Those that are up and eligible, full ones included.
    members: HashSet<NodeId>,
    /// Those of them that have room and are not failing.
    open: Shelf,
    /// Those that have room and are failing, and when each may have its next probe.
    failing: Shelf,
    probes: Probes,
}

impl Stock {
    fn has_room(&self) -> bool {
        !self.open.is_empty() || !self.failing.is_empty()
    }

    /// Whether a node has room that is not to be avoided.
    fn has_room_besides(&self, avoid: &[NodeId]) -> bool {
        let avoided = avoid.iter().filter(|node| self.open.has(node) || self.failing.has(node)).count();
        self.open.len() + self.failing.len() > avoided
    }

    fn take(&mut self, node: &NodeId) {
        self.open.take(node);
        self.failing.take(node);
        self.probes.take(node);
    }

    /// Puts a node where it belongs; without a score it has no room.
    fn put(&mut self, node: &NodeId, score: Option<Score>, health: &Health) {
        self.take(node);
        match score {
            Some(score) if health.state == HealthState::Failing => {
                self.failing.put(node, score);
                self.probes.put(node, health.next_probe);
            }
            Some(score) => self.open.put(node, score),
            None => {}
        }
    }
}

/// Which of the nodes with room to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Healthy,
    Failing,
}

/// The whole state.
#[derive(Debug)]
pub(super) struct Farm {
    /// It never becomes another one.
    pub(super) incarnation: Uuid,
    pub(super) now: Timestamp,
    /// When it was made: agents may not have filled it yet.
    began: Timestamp,
    pub(super) timing: Timing,
    pub(super) nodes: BTreeMap<NodeId, NodeState>,
    stock: BTreeMap<(NodeKind, RendererType), Stock>,
    /// What was abandoned on nodes that are not known (yet).
    pub(super) ahead: HashMap<NodeId, BTreeSet<SpawnId>>,
    /// Nodes that are up or stale, by their last heartbeat.
    pub(super) beats: BTreeSet<(Timestamp, NodeId)>,
    /// Reservations by when they expire.
    pub(super) expiries: BTreeSet<(Timestamp, SpawnId, NodeId)>,
    pub(super) owned: Owned,
    pub(super) line: Line,
    pub(super) history: History,
    pub(super) claims: Claims,
    pub(super) permits: Permits,
    pub(super) judged: Judgement,
    pub(super) cause: Option<Cause>,
    nudges: u64,
    /// Until a minute after a request has failed in the same way wherever it was tried.
    pub(super) alike_until: Timestamp,
}

impl Farm {
    pub(super) fn new(timing: Timing, now: Timestamp) -> Self {
        Self {
            incarnation: Uuid::new_v4(),
            now,
            began: now,
            nodes: BTreeMap::new(),
            stock: BTreeMap::new(),
            ahead: HashMap::new(),
            beats: BTreeSet::new(),
            expiries: BTreeSet::new(),
            owned: Owned::default(),
            line: Line::default(),
            history: History::new(&timing),
            claims: Claims::new(&timing),
            permits: Permits::new(),
            judged: Judgement::default(),
            cause: None,
            nudges: 0,
            alike_until: Timestamp::default(),
            timing,
        }
    }

    pub(super) fn after(&self, time: std::time::Duration) -> Timestamp {
        Timestamp::from_millis(
            self.now.millis().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    pub(super) fn reserve(&mut self, ask: &Reserve) -> Reserved {
        self.expire_beats();
        if let (Some(owner), Some(most)) = (&ask.owner, ask.most)
            && self.owned.is_over(owner, most)
        {
            self.leave_line(ask.place.as_slice());
            return Reserved::OverQuota;
        }
        let renderer = ask.demand.renderer;
        let kinds: Vec<NodeKind> = self
            .stock
            .keys()
            .filter(|(k, r)| *r == renderer && ask.demand.suits(k))
            .map(|(k, _)| k.clone())
            .collect();
        let line_now = self.line_now();
        let number = ask.place.and_then(|ticket| match self.line.is_in(ticket) {
            true => self.line.number(ticket, line_now),
            false => ask.number,
        });
        if let Some((node, standing)) = self.pick(&kinds, ask, number.unwrap_or(u64::MAX)) {
            return self.take_slot(ask, node, standing, number);
        }

        let members = kinds.iter().filter_map(|k| self.stock.get(&(k.clone(), renderer)));
        let outcome = if members.into_iter().any(|stock| !stock.members.is_empty()) {
            Reserved::Full
        } else {
            let fresh = self.nodes.is_empty() || self.now.since(self.began) < self.timing.stale * 2;
            Reserved::NoMatch { known: !kinds.is_empty(), fresh }
        };
        if let Some(ticket) = ask.place
            && !kinds.is_empty()
        {
            let until = self.after(self.timing.place);
            self.line.join(ticket, ask, kinds.iter(), until);
        }
        outcome
    }

    /// The time by which places are judged: one lapses when it was not renewed in time, counted from when front doors could.
    pub(super) fn line_now(&mut self) -> Timestamp {
        let grace = self.judged.judge(self.now, &self.timing);
        if self.now.since(grace) < self.timing.place { Timestamp::default() } else { self.now }
    }

    /// The best healthy node, or a failing one whose probe is due; a failing one otherwise only when no other has room.
    fn pick(&mut self, kinds: &[NodeKind], ask: &Reserve, number: u64) -> Option<(NodeId, Standing)> {
        let renderer = ask.demand.renderer;
        // Nodes to avoid step aside for the time of the choice.
        let kept: Vec<NodeId> =
            ask.avoid.iter().filter(|node| self.nodes.contains_key(*node)).cloned().collect();
        for node in &kept {
            for stock in self.stock.values_mut() {
                stock.take(node);
            }
        }
        let free: Vec<NodeKind> =
            kinds.iter().filter(|kind| !self.is_overtaking(kind, number)).cloned().collect();
        let healthy = self.choose(&free, ask, From::Healthy);
        let chosen = match healthy {
            Some(node) => {
                let probe = (!ask.probed).then(|| self.due_probe(&free, renderer)).flatten();
                Some(probe.map_or((node, Standing::Good), |probe| (probe, Standing::Probe)))
            }
            None => self.choose(&free, ask, From::Failing).map(|node| (node, Standing::LastChoice)),
        };
        for node in &kept {
            self.place(node);
        }
        chosen
    }

    /// The failing node whose probe has been due for longest.
    fn due_probe(&self, kinds: &[NodeKind], renderer: RendererType) -> Option<NodeId> {
        let stocks = kinds.iter().filter_map(|kind| self.stock.get(&(kind.clone(), renderer)));
        let first = stocks.filter_map(|stock| stock.probes.first()).min()?;
        (first.0 <= self.now.millis()).then_some(first.1)
    }

    fn take_slot(
        &mut self,
        ask: &Reserve,
        node: NodeId,
        standing: Standing,
        number: Option<u64>,
    ) -> Reserved {
        let renderer = ask.demand.renderer;
        let suspicious = self.is_suspicious();
        let expires = self.after(self.timing.reservation);
        let (now, lease) = (self.now.millis(), self.timing.reservation);
        let Some(state) = self.nodes.get_mut(&node) else { return Reserved::Full };
        let gpu = renderer == RendererType::Ssr && state.description.gpus > 0;
        state.held.insert(ask.spawn, Held { hold: Hold::Reserved, gpu, owner: ask.owner.clone() });
        let health = state.health.get_mut(renderer);
        let standing = match standing {
            Standing::Good if suspicious || health.is_watched() => Standing::Watched,
            other => other,
        };
        if standing == Standing::Probe {
            health.probe(now, lease);
        }
        let advertise = state.description.advertise.clone();
        self.owned.add(ask.owner.as_ref(), ask.spawn);
        self.expiries.insert((expires, ask.spawn, node.clone()));
        self.place(&node);
        if ask.place.is_some_and(|ticket| self.line.leave(ticket)) {
            self.nudge_line();
        }
        Reserved::Slot(Reservation { spawn: ask.spawn, node, advertise, standing, number })
    }

    /// The best level over all these kinds, then one of its nodes at random.
    fn choose(&self, kinds: &[NodeKind], ask: &Reserve, from: From) -> Option<NodeId> {
        let renderer = ask.demand.renderer;
        // Sick nodes are the least loaded ones, see `reserve.lua`.
        let from_other_end = !ask.avoid.is_empty() && self.now < self.alike_until;
        let placement = match (from, ask.placement) {
            (From::Healthy, Placement::Spread) if from_other_end => Placement::Pack,
            (From::Healthy, placement) if !from_other_end => placement,
            _ => Placement::Spread,
        };
        let level = |kind: &NodeKind| {
            let stock = self.stock.get(&(kind.clone(), renderer))?;
            let shelf = if from == From::Healthy { &stock.open } else { &stock.failing };
            shelf.best(placement)
        };
        let mut best: Option<(Score, Vec<&[NodeId]>)> = None;
        for (score, nodes) in kinds.iter().filter_map(level) {
            let better = |old: Score| match placement {
                Placement::Spread => score < old,
                Placement::Pack => score > old,
            };
            match &mut best {
                Some((old, levels)) if *old == score => levels.push(nodes),
                Some((old, _)) if !better(*old) => {}
                _ => best = Some((score, vec![nodes])),
            }
        }
        let (_, levels) = best?;
        let ties: usize = levels.iter().map(|level| level.len()).sum();
        let mut pick = fastrand::usize(0..ties.max(1));
        for level in levels {
            if let Some(node) = level.get(pick) {
                return Some(node.clone());
            }
            pick -= level.len();
        }
        None
    }

    /// Whether a waiter with a lower number could use a slot that nodes of this kind have.
    fn is_overtaking(&mut self, kind: &NodeKind, number: u64) -> bool {
        if self.line.is_empty() {
            return false;
        }
        let now = self.line_now();
        [RendererType::Csr, RendererType::Ssr].into_iter().any(|renderer| {
            let queue = (kind.clone(), renderer);
            self.stock.get(&queue).is_some_and(|stock| {
                stock.has_room()
                    && self.line.has_before(&queue, number, now, |avoid| stock.has_room_besides(avoid))
            })
        })
    }

    pub(super) fn release(&mut self, node: &NodeId, spawn: SpawnId) {
        if self.hold(node, spawn).is_some_and(|hold| hold != Hold::Running) {
            self.free(node, spawn);
        }
    }

    pub(super) fn renounce(&mut self, spawn: SpawnId) {
        let holds = self.nodes.iter().find(|(_, node)| node.held.contains_key(&spawn));
        if let Some(node) = holds.map(|(node, _)| node.clone()) {
            self.release(&node, spawn);
        }
    }

    pub(super) fn abandon(&mut self, node: &NodeId, spawn: SpawnId) {
        let Some(state) = self.nodes.get_mut(node) else {
            self.ahead.entry(node.clone()).or_default().insert(spawn);
            return;
        };
        if let Some(held) = state.held.get_mut(&spawn)
            && held.hold == Hold::Reserved
        {
            held.hold = Hold::Abandoned;
        }
        state.abandoned.insert(spawn);
    }

    fn hold(&self, node: &NodeId, spawn: SpawnId) -> Option<Hold> {
        self.nodes.get(node).and_then(|n| n.held.get(&spawn)).map(|held| held.hold)
    }

    /// Gives a slot back.
    pub(super) fn free(&mut self, node: &NodeId, spawn: SpawnId) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let Some(held) = state.held.remove(&spawn) else { return };
        self.owned.remove(held.owner.as_ref(), spawn);
        // A node that is down was reported as drained when it went.
        let drained = state.eligibility == Eligibility::Draining
            && state.availability != Availability::Down
            && state.held.is_empty();
        self.place(node);
        if drained {
            self.tell_node(EventKind::NodeDrained, node);
        }
        self.nudge_line();
    }

    /// Puts a node where it belongs after anything about it has changed.
    pub(super) fn place(&mut self, node: &NodeId) {
        let Some(state) = self.nodes.get(node) else { return };
        for renderer in [RendererType::Csr, RendererType::Ssr] {
            let key = (state.description.kind.clone(), renderer);
            if !state.offers(renderer) {
                if let Some(stock) = self.stock.get_mut(&key) {
                    stock.members.remove(node);
                    stock.take(node);
                }
                continue;
            }
            let stock = self.stock.entry(key).or_default();
            if state.may_place() {
                stock.members.insert(node.clone());
            } else {
                stock.members.remove(node);
            }
            let score = state.room(renderer).filter(|_| state.may_place());
            stock.put(node, score, state.health.get(renderer));
        }
    }

    /// Takes a node off every shelf, before its kind changes or it is forgotten.
    pub(super) fn unplace(&mut self, node: &NodeId) {
        for stock in self.stock.values_mut() {
            stock.members.remove(node);
            stock.take(node);
        }
        let nodes = &self.nodes;
        self.stock.retain(|(kind, renderer), _| {
            nodes.iter().any(|(id, n)| id != node && n.description.kind == *kind && n.offers(*renderer))
        });
    }

    pub(super) fn keep_places(&mut self, tickets: &[TicketId]) {
        let until = self.after(self.timing.place);
        for ticket in tickets {
            self.line.keep(*ticket, until);
        }
    }

    pub(super) fn leave_line(&mut self, tickets: &[TicketId]) {
        let left = tickets.iter().filter(|ticket| self.line.leave(**ticket)).count();
        if left > 0 {
            self.nudge_line();
        }
    }

    /// Tells those in line that they should ask again.
    pub(super) fn nudge_line(&mut self) {
        if !self.line.is_empty() {
            self.nudge();
        }
    }

    pub(super) fn nudge(&mut self) {
        self.nudges += 1;
    }

    pub(super) fn tell_node(&mut self, kind: EventKind, node: &NodeId) {
        self.history.tell(self.now, self.now, kind, node, None, Map::new());
    }

    pub(super) fn position(&self) -> Position {
        let seq = self.history.last_seq;
        Position { seq, nudge: self.nudges, seen: seq, incarnation: Some(self.incarnation) }
    }

    pub(super) fn follow(&self, after: Position) -> Follow {
        let position = self.position();
        let is_another = after.incarnation.is_some_and(|known| known != self.incarnation);
        if is_another || (after.seen > 0 && !self.history.has_had(after.seen)) {
            return Follow { gap: true, nudged: true, position, ..Follow::default() };
        }
        let (events, gap) = self.history.after(after.seq);
        Follow { events, nudged: self.nudges != after.nudge, gap, position }
    }

    pub(super) fn set_eligibility(
        &mut self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        by: Option<&str>,
    ) -> Option<u64> {
        let generation = (self.nodes.get(node)?.generation + 1).max(self.now.millis());
        self.set_order(node, eligibility, drain, generation, by);
        Some(generation)
    }

    pub(super) fn restore_order(
        &mut self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        generation: u64,
    ) -> bool {
        let is_news = self.nodes.get(node).is_some_and(|state| state.generation < generation);
        if is_news {
            self.set_order(node, eligibility, drain, generation, None);
        }
        is_news
    }

    /// Takes an operator's order.
    pub(super) fn set_order(
        &mut self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        generation: u64,
        by: Option<&str>,
    ) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let before = (state.eligibility, state.drain.clone());
        state.eligibility = eligibility;
        state.drain = drain.filter(|_| eligibility == Eligibility::Draining).cloned();
        state.generation = generation;
        let data = crate::ask::operator_data(state.drain.as_ref(), by);
        let changed = before != (eligibility, state.drain.clone());
        // Nothing runs on a node that is down.
        let empty = state.held.is_empty() || state.availability == Availability::Down;
        self.place(node);
        if changed {
            let kind = match eligibility {
                Eligibility::Eligible => EventKind::NodeUncordoned,
                Eligibility::Cordoned => EventKind::NodeCordoned,
                Eligibility::Draining => EventKind::NodeDraining,
            };
            self.history.tell(self.now, self.now, kind, node, None, data);
            if eligibility == Eligibility::Draining && empty {
                self.tell_node(EventKind::NodeDrained, node);
            }
        }
        self.nudge_line();
    }
}
