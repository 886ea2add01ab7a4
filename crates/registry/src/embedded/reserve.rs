//! Taking a slot on the best node. `redis/lua/choice.lua` and `reserve.lua` decide the same.
//!
//! Order of preference: a healthy node with room, by placement; now and then, instead of it, a failing node whose probe is
//! due; a failing node otherwise only when no healthy one has room. Ties are broken at random. A caller never takes a slot
//! that a waiter with a lower number could use.

use std::collections::BTreeSet;
use std::time::Duration;

use model::{NodeId, NodeKind, Placement, RendererType, TicketId, Timestamp};

use super::farm::{Farm, Hold, SlotEntry};
use super::shelf::Score;
use crate::ask::{Reservation, Reserve, Reserved, Standing};
use crate::verdict::{Forecast, Foreseen};
use crate::waiting::WaitingRequest;

/// The nodes with room to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Candidates {
    Healthy,
    Failing,
}

impl Farm {
    pub(super) fn reserve(&mut self, ask: &Reserve) -> Reserved {
        self.expire_beats();
        if let (Some(owner), Some(most)) = (&ask.owner, ask.most)
            && self.owned.is_over(owner, most)
        {
            self.leave_line(ask.place.as_slice());
            return Reserved::OverQuota;
        }
        let kinds = self.suitable(ask);
        let line_now = self.line_now();
        let number = ask.place.and_then(|ticket| match self.line.is_in(ticket) {
            true => self.line.number(ticket, line_now),
            false => ask.number,
        });
        if let Some((node, standing)) = self.pick(&kinds, ask, number.unwrap_or(u64::MAX)) {
            return self.take_slot(ask, node, standing, number);
        }

        let outcome = self.shortage(&kinds, ask);
        if let Some(ticket) = ask.place {
            // A kind that does not offer the renderer now may do so soon: after a wipe, its nodes come back one by one.
            let suiting = self.suiting(ask);
            if !suiting.is_empty() {
                let times = (self.now, self.after(self.timing.place));
                self.line.join(ticket, ask, suiting.iter(), times);
            }
        }
        outcome
    }

    /// What a reserve would come to, without a place in line. Takes nothing.
    pub(super) fn forecast(&mut self, ask: &Reserve) -> Forecast {
        self.expire_beats();
        if let (Some(owner), Some(most)) = (&ask.owner, ask.most)
            && self.owned.is_over(owner, most)
        {
            return Forecast { outcome: Foreseen::OverQuota, promised: Vec::new() };
        }
        let kinds = self.suitable(ask);
        let outcome = match self.pick(&kinds, ask, u64::MAX) {
            Some((node, standing)) => Foreseen::Slot { node, standing },
            None => match self.shortage(&kinds, ask) {
                Reserved::NoMatch { known, .. } => Foreseen::NoMatch { known },
                _ => Foreseen::Full,
            },
        };
        let promised = self.suiting(ask);
        let promised = promised.into_iter().filter(|kind| self.is_overtaking(kind, u64::MAX)).collect();
        Forecast { outcome, promised }
    }

    /// The kinds that suit a request, also those that do not offer the renderer now.
    fn suiting(&self, ask: &Reserve) -> BTreeSet<NodeKind> {
        let kinds = self.stock.keys().map(|(kind, _)| kind);
        kinds.filter(|kind| ask.demand.suits(kind)).cloned().collect()
    }

    /// The kinds that suit a request and have the renderer.
    fn suitable(&self, ask: &Reserve) -> Vec<NodeKind> {
        let kinds = self.stock.keys().filter(|(kind, r)| *r == ask.demand.renderer && ask.demand.suits(kind));
        kinds.map(|(kind, _)| kind.clone()).collect()
    }

    /// What is short, when no slot was found on nodes of these kinds.
    fn shortage(&self, kinds: &[NodeKind], ask: &Reserve) -> Reserved {
        let stocks = kinds.iter().filter_map(|k| self.stock.get(&(k.clone(), ask.demand.renderer)));
        if stocks.into_iter().any(|stock| !stock.members.is_empty()) {
            return Reserved::Full;
        }
        let fresh = self.nodes.is_empty() || self.now.since(self.began) < self.timing.stale * 2;
        Reserved::NoMatch { known: !kinds.is_empty(), fresh }
    }

    /// The time by which places lapse. For a while after the registry was away it is the epoch, so that none does: front
    /// doors could not renew them then.
    pub(super) fn line_now(&mut self) -> Timestamp {
        let grace = self.judged.judge(self.now, &self.timing);
        if self.now.since(grace) < self.timing.place { Timestamp::default() } else { self.now }
    }

    /// The best healthy node, or a failing one whose probe is due; a failing one otherwise only when no other has room.
    fn pick(&mut self, kinds: &[NodeKind], ask: &Reserve, number: u64) -> Option<(NodeId, Standing)> {
        let renderer = ask.demand.renderer;
        // Nodes to avoid leave the index for the time of the choice.
        let kept: Vec<NodeId> =
            ask.avoid.iter().filter(|node| self.nodes.contains_key(*node)).cloned().collect();
        for node in &kept {
            for stock in self.stock.values_mut() {
                stock.take(node);
            }
        }
        let free: Vec<NodeKind> =
            kinds.iter().filter(|kind| !self.is_overtaking(kind, number)).cloned().collect();
        let healthy = self.choose(&free, ask, Candidates::Healthy);
        let chosen = match healthy {
            Some(node) => {
                let probe = (!ask.probed).then(|| self.due_probe(&free, renderer)).flatten();
                Some(probe.map_or((node, Standing::Good), |probe| (probe, Standing::Probe)))
            }
            None => self.choose(&free, ask, Candidates::Failing).map(|node| (node, Standing::LastChoice)),
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
        state.held.insert(ask.spawn, SlotEntry { hold: Hold::Reserved, gpu, owner: ask.owner.clone() });
        let health = state.health.get_mut(renderer);
        let standing = match standing {
            Standing::Good if suspicious || health.is_watched() => Standing::Watched,
            other => other,
        };
        let mut proof = Duration::ZERO;
        if standing == Standing::Probe {
            health.probe(now, lease);
            proof = Duration::from_millis(health.hold);
        }
        let advertise = state.description.advertise.clone();
        self.owned.add(ask.owner.as_ref(), ask.spawn);
        self.expiries.insert((expires, ask.spawn, node.clone()));
        self.place(&node);
        if ask.place.is_some_and(|ticket| self.line.leave(ticket)) {
            self.wake_line();
        }
        Reserved::Slot(Reservation { spawn: ask.spawn, node, advertise, standing, number, proof })
    }

    /// The best level over all these kinds, then one of its nodes at random.
    fn choose(&self, kinds: &[NodeKind], ask: &Reserve, from: Candidates) -> Option<NodeId> {
        let renderer = ask.demand.renderer;
        // Failing nodes are the least loaded ones. For a while after a request has failed alike wherever it was tried,
        // second tries go to the other end: a node that is well is found there, and its success shows which ones are not.
        let from_other_end = !ask.avoid.is_empty() && self.now < self.alike_until;
        let placement = match (from, ask.placement) {
            (Candidates::Healthy, Placement::Spread) if from_other_end => Placement::Pack,
            (Candidates::Healthy, placement) if !from_other_end => placement,
            _ => Placement::Spread,
        };
        let level = |kind: &NodeKind| {
            let stock = self.stock.get(&(kind.clone(), renderer))?;
            let shelf = if from == Candidates::Healthy { &stock.open } else { &stock.failing };
            shelf.best(placement)
        };
        let mut best: Option<(Score, Vec<&[NodeId]>)> = None;
        for (score, nodes) in kinds.iter().filter_map(level) {
            match &mut best {
                Some((old, levels)) if *old == score => levels.push(nodes),
                Some((old, _)) if !score.is_better(*old, placement) => {}
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

    pub(super) fn waiting(&mut self) -> Vec<WaitingRequest> {
        let now = self.line_now();
        self.line.waiting(now)
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
            self.wake_line();
        }
    }

    /// Wakes the callers in line, if there are any: they ask again.
    pub(super) fn wake_line(&mut self) {
        if !self.line.is_empty() {
            self.wake();
        }
    }

    pub(super) fn wake(&mut self) {
        self.wakeups += 1;
    }
}
