//! The last snapshot of the farm, for spawns while the registry is away: which nodes there are, what they offer, how full
//! they were, and how starts went there. It is refreshed while the registry takes writes and kept while it does not. Nothing
//! here is a promise: the agents admit or refuse, as they always do.
//!
//! Owns: the front door's own copy of each node's [`model::Health`]. A refresh starts it from what the registry knows; while the
//! registry is away, the outcomes of the front door's own starts change it.
//!
//! Invariant: a snapshot is not replaced by one that an outage made. When most of the nodes that were up are suddenly gone or
//! not up, the old snapshot stays until that has been so for as long as a node needs to be `down`.
//!
//! Failure: a snapshot older than [`MAX_AGE`] chooses nothing.

mod node_health;
mod snapshot_node;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{
    Availability, Demand, Eligibility, FarmCause, FarmSlots, NodeDescription, NodeId, NodeKind, NodeRecord,
    RendererType,
};
use registry::{Assessment, Forecast, Foreseen, Outcomes, Standing};
use tokio::time::Instant;
use wire::v1::refused::Reason;

use self::snapshot_node::{Candidates, SnapshotNode};
use super::placed::Placed;

/// A snapshot of this age is of no use any more.
const MAX_AGE: Duration = Duration::from_secs(600);
/// A node that refused because it was full is the last choice for this long: spawns end.
const FULL: Duration = Duration::from_secs(1);
/// A node that refused for another reason is the last choice for this long.
const UNWILLING: Duration = Duration::from_secs(30);
/// No other probe starts before the outcome of one is known, or this time has passed.
const PROBE_LEASE: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Never held across an await.
    farm: Mutex<Farm>,
    /// Times of [`model::Health`] count from here.
    began: Instant,
}

#[derive(Debug, Default)]
struct Farm {
    taken: Option<Instant>,
    /// Since when refreshes show a farm of which most is gone.
    doubted: Option<Instant>,
    kinds: Vec<NodeKind>,
    nodes: Vec<SnapshotNode>,
    cause: Option<FarmCause>,
}

/// A node that was chosen from the snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    /// Where its agent is reached.
    pub(crate) advertise: String,
    pub(crate) standing: Standing,
}

/// What there is for one demand.
#[derive(Debug)]
struct Survey {
    /// Whether a node offers what is asked for, up or not.
    known: bool,
    /// Whether one of them is up and eligible.
    matching: bool,
    /// A failing node whose probe is due.
    probe: Option<usize>,
    /// The node to choose.
    best: Option<usize>,
}

/// What the nodes together offer that spawns may be placed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FarmCapacity {
    pub(crate) slots: usize,
    /// Slots that are neither reserved nor taken.
    pub(crate) free: usize,
    /// Whether some node offers client-side rendering.
    pub(crate) csr: bool,
    pub(crate) ssr: bool,
    /// The most GPUs that a node has.
    pub(crate) gpus: u32,
}

/// The outcome of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refresh {
    /// The snapshot has so many nodes now.
    Taken(usize),
    /// The old one stays for now.
    Doubted,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { farm: Mutex::default(), began: Instant::now() }
    }
}

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// gRPC URL of its agent.
    pub(crate) advertise: String,
    /// Host and port of its relay, if viewers reach it through one.
    pub(crate) viewer_relay: Option<String>,
}

impl Addresses {
    pub(crate) fn of(node: &NodeDescription) -> Self {
        Self { advertise: node.advertise.clone(), viewer_relay: node.viewer_relay.clone() }
    }
}

impl Snapshot {
    fn farm(&self) -> MutexGuard<'_, Farm> {
        self.farm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present on the clock of [`model::Health`].
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How many nodes it has.
    pub(crate) fn len(&self) -> usize {
        self.farm().nodes.len()
    }

    /// Has all nodes looked at, under the lock.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut dyn Iterator<Item = &NodeRecord>) -> T) -> T {
        look(&mut self.farm().nodes.iter().map(|seen| &seen.record))
    }

    /// Whether spawns can be placed from it.
    pub(crate) fn serves(&self) -> bool {
        let farm = self.farm();
        farm.is_fresh() && !farm.nodes.is_empty()
    }

    /// Where the agent of a node and its relay were when the node was last seen, however long ago.
    pub(crate) fn addresses_of(&self, node: &NodeId) -> Option<Addresses> {
        let farm = self.farm();
        let at = farm.nodes.binary_search_by(|seen| seen.record.id.cmp(node)).ok()?;
        Some(Addresses::of(&farm.nodes[at].record.description))
    }

    /// Whether the node was down when it was last seen.
    pub(crate) fn is_down(&self, node: &NodeId) -> bool {
        let farm = self.farm();
        let at = farm.nodes.binary_search_by(|seen| seen.record.id.cmp(node));
        at.is_ok_and(|at| farm.nodes[at].record.availability == Availability::Down)
    }

    /// The nodes that are up, with the addresses of their agents.
    pub(crate) fn addresses_of_up(&self) -> Vec<(NodeId, String)> {
        let is_up = |node: &&NodeRecord| node.availability == Availability::Up;
        self.look(|nodes| {
            nodes.filter(is_up).map(|n| (n.id.clone(), n.description.advertise.clone())).collect()
        })
    }

    /// Why starts fail on every node alike, as far as the registry said.
    pub(crate) fn farm_cause(&self) -> Option<FarmCause> {
        self.farm().cause.clone()
    }

    /// The registry has said why starts fail on every node alike, or that they do not.
    pub(crate) fn set_farm_cause(&self, cause: Option<FarmCause>) {
        self.farm().cause = cause;
    }

    /// The registry was wiped: what it lacks from now on says nothing before the agents have had the time to report again.
    pub(super) fn distrust(&self) {
        let mut farm = self.farm();
        let now = Instant::now();
        farm.doubted = None;
        farm.nodes.iter_mut().for_each(|seen| seen.at = now);
    }

    /// Takes in what the registry knows now. Nodes that it has lost (it was wiped) are kept for `down`, until their agents
    /// have reported again; a farm of which most is gone is not believed for as long.
    pub(super) fn refresh(&self, records: Vec<NodeRecord>, down: Duration) -> Refresh {
        let mut farm = self.farm();
        let now = Instant::now();
        if farm.is_doubtful(&records) && farm.doubted.get_or_insert(now).elapsed() < down {
            return Refresh::Doubted;
        }
        farm.doubted = None;
        // The records come sorted by name.
        let known = |id: &NodeId| records.binary_search_by(|record| record.id.cmp(id)).is_ok();
        farm.nodes.retain(|seen| now.duration_since(seen.at) < down && !known(&seen.record.id));
        let present = records.iter().map(|record| record.last_heartbeat_at.millis()).max().unwrap_or(0);
        let clock = self.now();
        let fresh = |record: NodeRecord| {
            let health = node_health::adopt(&record.health, present, clock);
            SnapshotNode { record, kind: 0, at: now, placed: 0, placed_ssr: 0, passed_over: None, health }
        };
        farm.nodes.extend(records.into_iter().map(fresh));
        farm.taken = Some(now);
        farm.tidy();
        Refresh::Taken(farm.nodes.len())
    }

    /// Chooses the less loaded of two random nodes that suit the demand, have room and are not failing, as far as is known; of the nodes
    /// that are as loaded as that one, one that gives a spawn soonest: from a warm server, or with the fewest starts that wait.
    /// A failing node whose probe is due goes first; otherwise it is chosen only where no other has room. `tried` are not
    /// chosen at all, `avoided` only if there is no other. `None`: there is no snapshot, or it is too old.
    pub(crate) fn choose(
        &self,
        demand: &Demand,
        tried: &[NodeId],
        avoided: &[NodeId],
    ) -> Option<Placed<Candidate>> {
        let clock = self.now();
        let mut farm = self.farm();
        if !farm.is_fresh() {
            return None;
        }
        let Survey { known, matching, probe, best } = farm.survey(demand, tried, avoided, clock);
        Some(match best {
            Some(i) => {
                let seen = &mut farm.nodes[i];
                seen.placed += 1;
                seen.placed_ssr += u32::from(demand.renderer == RendererType::Ssr);
                let health = &mut seen.health[demand.renderer as usize];
                let standing = node_health::stand(health, probe == Some(i));
                if standing == Standing::Probe {
                    health.probe(clock, PROBE_LEASE);
                }
                let (node, advertise) = (seen.record.id.clone(), seen.record.description.advertise.clone());
                Placed::Slot(Candidate { node, advertise, standing })
            }
            None if matching => Placed::Full,
            None => Placed::NoMatch { known },
        })
    }

    /// What [`Self::choose`] would come to, but for chance. Nothing changes.
    pub(crate) fn forecast(&self, demand: &Demand, tried: &[NodeId], avoided: &[NodeId]) -> Option<Forecast> {
        let clock = self.now();
        let farm = self.farm();
        if !farm.is_fresh() {
            return None;
        }
        let Survey { known, matching, probe, best } = farm.survey(demand, tried, avoided, clock);
        // A node that was full is asked as the last resort, since spawns end. What is foreseen is that its agent refuses.
        let free = best.filter(|i| farm.nodes[*i].load(demand.renderer) < 1.0);
        let outcome = match free {
            Some(i) => {
                let seen = &farm.nodes[i];
                let standing = node_health::stand(&seen.health[demand.renderer as usize], probe == Some(i));
                Foreseen::Slot { node: seen.record.id.clone(), standing }
            }
            None if matching => Foreseen::Full,
            None => Foreseen::NoMatch { known },
        };
        Some(Forecast { outcome, promised: Vec::new() })
    }

    /// What each node has for one more spawn, by name; `None`: there is no snapshot, or it is too old.
    pub(crate) fn assess(&self) -> Option<Vec<Assessment>> {
        let farm = self.farm();
        let kinds: Vec<Arc<NodeKind>> = farm.kinds.iter().cloned().map(Arc::new).collect();
        farm.is_fresh()
            .then(|| farm.nodes.iter().map(|seen| seen.assessment(Arc::clone(&kinds[seen.kind]))).collect())
    }

    /// Whether some node offers the renderer; `None` when no node is known.
    pub(crate) fn offers(&self, renderer: RendererType) -> Option<bool> {
        let farm = self.farm();
        (!farm.nodes.is_empty()).then(|| farm.nodes.iter().any(|seen| seen.offers(renderer)))
    }

    /// As of the last refresh; nothing when no node is known.
    pub(crate) fn capacity(&self) -> FarmCapacity {
        let farm = self.farm();
        let mut capacity = FarmCapacity::default();
        for seen in farm.nodes.iter().filter(|seen| seen.may_place()) {
            let description = &seen.record.description;
            capacity.slots += to_usize(description.slots);
            capacity.free += to_usize(description.slots.saturating_sub(seen.record.used));
            capacity.csr |= description.csr;
            capacity.ssr |= description.ssr;
            capacity.gpus = capacity.gpus.max(description.gpus);
        }
        capacity
    }

    /// Slots of the nodes that are up, and those in use; `None` when the snapshot is too old, or has no node.
    pub(crate) fn slots(&self) -> Option<FarmSlots> {
        let farm = self.farm();
        let up =
            farm.nodes.iter().map(|seen| &seen.record).filter(|node| node.availability == Availability::Up);
        let counts = up.map(|node| (node.description.slots, node.used));
        let sum = counts.fold((0_u32, 0_u32), |sum, (total, used)| {
            (sum.0.saturating_add(total), sum.1.saturating_add(used))
        });
        (farm.is_fresh() && !farm.nodes.is_empty()).then_some(FarmSlots { total: sum.0, used: sum.1 })
    }

    /// Whether there is an up and eligible node for the demand beside those that were tried.
    pub(crate) fn has_other(&self, demand: &Demand, tried: &[NodeId]) -> bool {
        let farm = self.farm();
        farm.is_fresh()
            && farm.nodes.iter().any(|seen| {
                seen.may_place()
                    && seen.offers(demand.renderer)
                    && !tried.contains(&seen.record.id)
                    && farm.kinds.get(seen.kind).is_some_and(|kind| demand.suits(kind))
            })
    }

    /// Takes in the outcomes of the starts of one request.
    pub(crate) fn learn(&self, outcomes: &Outcomes) {
        let clock = self.now();
        for (node, outcome) in &outcomes.starts {
            self.change(node, |seen| node_health::learn(&mut seen.health, outcomes, outcome, clock));
        }
    }

    /// Takes in an operator's order.
    pub(crate) fn order(&self, node: &NodeId, eligibility: Eligibility) {
        self.change(node, |seen| seen.record.eligibility = eligibility);
    }

    /// An operator had a node forgotten.
    pub(crate) fn forget(&self, node: &NodeId) {
        let mut farm = self.farm();
        farm.nodes.retain(|seen| seen.record.id != *node);
    }

    /// A chosen node was not used.
    pub(crate) fn give_back(&self, node: &NodeId, renderer: RendererType) {
        self.change(node, |seen| {
            seen.placed = seen.placed.saturating_sub(1);
            seen.placed_ssr = seen.placed_ssr.saturating_sub(u32::from(renderer == RendererType::Ssr));
        });
    }

    /// A chosen node refused.
    pub(crate) fn refused(&self, node: &NodeId, reason: Reason) {
        let pause = match reason {
            Reason::Full | Reason::GpusFull | Reason::NoPort | Reason::LowMemory => FULL,
            _ => UNWILLING,
        };
        self.change(node, |seen| seen.passed_over = Some(Instant::now() + pause));
    }

    fn change(&self, node: &NodeId, what: impl FnOnce(&mut SnapshotNode)) {
        let mut farm = self.farm();
        if let Ok(at) = farm.nodes.binary_search_by(|seen| seen.record.id.cmp(node)) {
            what(&mut farm.nodes[at]);
        }
    }
}

impl Farm {
    fn is_fresh(&self) -> bool {
        self.taken.is_some_and(|taken| taken.elapsed() < MAX_AGE)
    }

    /// Whether most of the nodes that were up are gone, or not up, all at once.
    fn is_doubtful(&self, records: &[NodeRecord]) -> bool {
        let up = |record: &NodeRecord| record.availability == Availability::Up;
        let before = self.nodes.iter().filter(|seen| up(&seen.record));
        let (mut were, mut are) = (0_usize, 0_usize);
        for seen in before {
            were += 1;
            let now = records.binary_search_by(|record| record.id.cmp(&seen.record.id));
            are += usize::from(now.is_ok_and(|at| up(&records[at])));
        }
        are * 2 < were
    }

    /// Looks at every node, as [`Snapshot::choose`] describes.
    fn survey(&self, demand: &Demand, tried: &[NodeId], avoided: &[NodeId], clock: u64) -> Survey {
        let now = Instant::now();
        let suits: Vec<bool> = self.kinds.iter().map(|kind| demand.suits(kind)).collect();
        let (mut known, mut matching) = (false, false);
        let [mut roomy, mut failing, mut last] = [(); 3].map(|()| Candidates::default());
        let mut probe = None;
        for (i, seen) in self.nodes.iter().enumerate() {
            if !suits[seen.kind] || !seen.offers(demand.renderer) {
                continue;
            }
            known = true;
            if !seen.may_place() {
                continue;
            }
            matching = true;
            let id = &seen.record.id;
            if tried.contains(id) {
                continue;
            }
            let load = seen.load(demand.renderer);
            let willing =
                load < 1.0 && seen.passed_over.is_none_or(|until| until <= now) && !avoided.contains(id);
            let health = &seen.health[demand.renderer as usize];
            if !willing {
                last.meet(i, load);
            } else if !health.is_avoided() {
                roomy.meet(i, load);
            } else {
                failing.meet(i, load);
                if health.is_probe_due(clock) {
                    probe.get_or_insert(i);
                }
            }
        }
        // A probe needs a node for its second try.
        let probe = probe.filter(|_| !roomy.is_empty());
        let handicap = |node: usize| self.nodes[node].handicap(demand.renderer);
        // Failing nodes are compared by their loads alone, as the registry does it.
        let others = || failing.better(|_| 0).or_else(|| last.better(|_| 0));
        let best = probe.or_else(|| roomy.better(handicap)).or_else(others);
        Survey { known, matching, probe, best }
    }

    /// Sorts the nodes, and lists their kinds, so that labels are compared once per kind.
    fn tidy(&mut self) {
        self.nodes.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        self.kinds.clear();
        let mut places = BTreeMap::new();
        for seen in &mut self.nodes {
            let kind = &seen.record.description.kind;
            seen.kind = *places.entry(kind.clone()).or_insert_with(|| {
                self.kinds.push(kind.clone());
                self.kinds.len() - 1
            });
        }
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
