//! The last picture of the farm, for spawns while the registry is away: which nodes there are, what they offer, and how
//! full they were. It is refreshed while the registry is there and kept while it is not. Nothing here is a promise: the
//! agents admit or refuse, as they always do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::api::Node;
use model::{Availability, Demand, Eligibility, NodeId, NodeKind, NodeRecord, RendererType};
use tokio::time::{Instant, sleep};
use wire::v1::refused::Reason;

use crate::cleanup::jittered;
use crate::door::Door;

/// How often it is refreshed; seldomer where that takes long, so that it never costs more than a twentieth of the time.
const EVERY: Duration = Duration::from_secs(1);
/// After this time it is of no use any more.
const TOO_OLD: Duration = Duration::from_secs(600);
/// A node that said that it was full is the last choice for this long: spawns end.
const FULL: Duration = Duration::from_secs(1);
/// A node that does not want the spawn at all is the last choice for this long.
const UNWILLING: Duration = Duration::from_secs(30);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// Never held across an await.
    farm: Mutex<Farm>,
}

#[derive(Debug, Default)]
struct Farm {
    taken: Option<Instant>,
    kinds: Vec<NodeKind>,
    nodes: Vec<Seen>,
}

/// A node as it was last seen.
#[derive(Debug)]
struct Seen {
    record: NodeRecord,
    /// Its kind's place in the list.
    kind: usize,
    /// When the registry last knew it.
    at: Instant,
    /// Placed from here since.
    placed: u32,
    placed_ssr: u32,
    /// Not chosen until then if there is another.
    passed_over: Option<Instant>,
}

/// What came of looking for a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This one; `advertise` is where its agent is reached.
    Node { node: NodeId, advertise: String },
    /// All that would do were tried.
    Full,
    /// None would do; `known` when some would if they were up and eligible.
    NoMatch { known: bool },
    /// There is no picture, or it is too old.
    Nothing,
}

impl Picture {
    fn farm(&self) -> MutexGuard<'_, Farm> {
        self.farm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether spawns can be placed from it.
    pub(crate) fn serves(&self) -> bool {
        let farm = self.farm();
        farm.is_fresh() && !farm.nodes.is_empty()
    }

    /// Takes in what the registry knows now. Nodes that it has lost (it was wiped) are kept for `patience`, until their
    /// agents have told it again. How many nodes there are now.
    fn refresh(&self, records: Vec<NodeRecord>, patience: Duration) -> usize {
        let mut farm = self.farm();
        let now = Instant::now();
        // The records come sorted by name.
        let known = |id: &NodeId| records.binary_search_by(|record| record.id.cmp(id)).is_ok();
        farm.nodes.retain(|seen| now.duration_since(seen.at) < patience && !known(&seen.record.id));
        let fresh = |record| Seen { record, kind: 0, at: now, placed: 0, placed_ssr: 0, passed_over: None };
        farm.nodes.extend(records.into_iter().map(fresh));
        farm.taken = Some(now);
        farm.tidy();
        farm.nodes.len()
    }

    /// The less loaded of two nodes at random out of those that will do and have room, as far as is known. `tried` are not
    /// chosen at all, `shunned` only if there is no other.
    pub(crate) fn choose(&self, demand: &Demand, tried: &[NodeId], shunned: &[NodeId]) -> Choice {
        let mut farm = self.farm();
        if !farm.is_fresh() {
            return Choice::Nothing;
        }
        let now = Instant::now();
        let suits: Vec<bool> = farm.kinds.iter().map(|kind| demand.suits(kind)).collect();
        let (mut known, mut matching) = (false, false);
        let (mut roomy, mut last) = (Pair::default(), Pair::default());
        for (i, seen) in farm.nodes.iter().enumerate() {
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
                load < 1.0 && seen.passed_over.is_none_or(|until| until <= now) && !shunned.contains(id);
            if willing { roomy.meet(i, load) } else { last.meet(i, load) }
        }
        match roomy.better().or_else(|| last.better()) {
            Some(i) => {
                let seen = &mut farm.nodes[i];
                seen.placed += 1;
                seen.placed_ssr += u32::from(demand.renderer == RendererType::Ssr);
                let (node, advertise) = (seen.record.id.clone(), seen.record.description.advertise.clone());
                Choice::Node { node, advertise }
            }
            None if matching => Choice::Full,
            None => Choice::NoMatch { known },
        }
    }

    /// A node that was chosen got nothing.
    pub(crate) fn give_back(&self, node: &NodeId, renderer: RendererType) {
        self.change(node, |seen| {
            seen.placed = seen.placed.saturating_sub(1);
            seen.placed_ssr = seen.placed_ssr.saturating_sub(u32::from(renderer == RendererType::Ssr));
        });
    }

    /// A node that was chosen said no.
    pub(crate) fn refused(&self, node: &NodeId, reason: Reason) {
        let pause = match reason {
            Reason::Full | Reason::GpusFull | Reason::NoPort | Reason::LowMemory => FULL,
            _ => UNWILLING,
        };
        self.change(node, |seen| seen.passed_over = Some(Instant::now() + pause));
    }

    fn change(&self, node: &NodeId, what: impl FnOnce(&mut Seen)) {
        let mut farm = self.farm();
        if let Ok(at) = farm.nodes.binary_search_by(|seen| seen.record.id.cmp(node)) {
            what(&mut farm.nodes[at]);
        }
    }
}

impl Farm {
    fn is_fresh(&self) -> bool {
        self.taken.is_some_and(|taken| taken.elapsed() < TOO_OLD)
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

impl Seen {
    fn offers(&self, renderer: RendererType) -> bool {
        match renderer {
            RendererType::Csr => self.record.description.csr,
            RendererType::Ssr => self.record.description.ssr,
        }
    }

    fn may_place(&self) -> bool {
        self.record.eligibility == Eligibility::Eligible && self.record.availability == Availability::Up
    }

    /// Used over all, of slots or GPU slots, whichever is scarcer; 1 and more is full.
    fn load(&self, renderer: RendererType) -> f64 {
        let share = |used: u32, total: u32| {
            if total == 0 { f64::INFINITY } else { f64::from(used) / f64::from(total) }
        };
        let slots = share(self.record.used + self.placed, self.record.description.slots);
        match self.record.description.gpu_total() {
            Some(total) if renderer == RendererType::Ssr => {
                slots.max(share(self.record.gpu_used + self.placed_ssr, total))
            }
            _ => slots,
        }
    }
}

/// Two at random out of any number, met one by one.
#[derive(Debug, Default)]
struct Pair {
    met: usize,
    two: [Option<(usize, f64)>; 2],
}

impl Pair {
    fn meet(&mut self, node: usize, load: f64) {
        let place = if self.met < 2 { self.met } else { fastrand::usize(..=self.met) };
        if let Some(slot) = self.two.get_mut(place) {
            *slot = Some((node, load));
        }
        self.met += 1;
    }

    fn better(&self) -> Option<usize> {
        let mut two = self.two.iter().flatten();
        let (first, second) = (two.next()?, two.next());
        Some(second.filter(|second| second.1 < first.1).unwrap_or(first).0)
    }
}

/// Runs for ever.
pub(crate) async fn keep(door: Arc<Door>) {
    let patience = door.registry.timing().down;
    loop {
        let began = Instant::now();
        match door.registry.nodes().await {
            Ok(nodes) => {
                door.live.feed.refresh(|| nodes.iter().cloned().map(Node::from).collect());
                let farm_cause = door.registry.farm_cause().await.is_ok_and(|cause| cause.is_some());
                door.metrics.health(&nodes, farm_cause);
                let count = door.picture.refresh(nodes, patience);
                door.metrics.picture(count);
                // An empty picture is of no use: the first node is seen soon.
                let every = if count == 0 { EVERY / 10 } else { EVERY };
                sleep(jittered(every).max(began.elapsed() * 20)).await;
            }
            Err(_away) => {
                door.registry.back().await;
                sleep(jittered(EVERY / 10)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
