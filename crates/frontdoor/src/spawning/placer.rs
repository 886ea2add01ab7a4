//! Asks for a slot: the registry, or the last snapshot of the farm where the registry cannot be asked or lacks what it knew.
//!
//! Invariant: a slot that the registry may have taken is held or released, also when the caller goes away before the answer.
//!
//! Failure: when the outcome of a `reserve` is unknown, the reservation is released by the spawn's id, on whatever node it is.

use std::sync::Arc;
use std::time::Duration;

use model::{Demand, NodeId, Placement, SpawnId, TicketId};
use registry::{Forecast, Foreseen, IdempotencyKey, Outcomes, RegistryError, Reservation, Reserve, Reserved};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use traces::Span;
use traces::attribute::{NODE_ID, OUTCOME};
use tracing::debug;
use uuid::Uuid;

use super::held_slot::{HeldSlot, SlotAccess};
use super::order::SpawnOrder;
use super::why::{CORDONED, UNREACHABLE};
use crate::metrics::{CleanupKind, Source, SpawnPhase};
use crate::registry_access::cleanup::persist;
use crate::registry_access::desired_state::DesiredStates;
use crate::registry_access::placed::Placed;
use crate::registry_access::snapshot::Candidate;
use crate::request_context::RequestContext;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Placer {
    access: Arc<SlotAccess>,
    desired_states: Arc<DesiredStates>,
    placement: Placement,
}

/// A place in line, kept while slots turn out to be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) id: TicketId,
    /// The number that the place had before it was given up for a slot.
    pub(crate) number: Option<u64>,
    /// The same request may come again, with its key, and takes its place up again.
    pub(crate) returns: bool,
}

impl Ticket {
    /// Requests with one key have one place, at whatever front door; any other request has a place of its own.
    pub(crate) fn of(key: Option<&IdempotencyKey>) -> Self {
        const KEYS: Uuid = Uuid::from_u128(0x8c61_20b5_8b5e_4b0c_b4a5_4f6e_1f0b_57c3);
        let id = key.map_or_else(TicketId::mint, |key| Uuid::new_v5(&KEYS, key.as_str().as_bytes()).into());
        Self { id, number: None, returns: key.is_some() }
    }
}

/// What a request would come to.
#[derive(Debug)]
pub(crate) struct Foretold {
    pub(crate) forecast: Forecast,
    /// Nodes that the request would not ask for, and why, as a key.
    pub(crate) passed_over: Vec<(NodeId, &'static str)>,
    pub(crate) placement: Placement,
    /// Where the outcome is a shortage: the nodes that would have room and could not be reached.
    pub(crate) unreached: Vec<NodeId>,
}

/// A place in line to reserve with. The lock is held while the registry is asked.
pub(crate) type InLine = (Ticket, Arc<AsyncMutex<()>>);

impl Placer {
    pub(crate) fn new(
        access: Arc<SlotAccess>,
        desired_states: Arc<DesiredStates>,
        placement: Placement,
    ) -> Self {
        Self { access, desired_states, placement }
    }

    /// Asks the registry for a slot on a node that is not excluded. Nodes in quarantine are avoided; a request that does not wait
    /// in line gets one of them when there is no other. When the caller goes away meanwhile, the answer is awaited all the same,
    /// and a slot that was taken is released. `probed`: the request was given a failing node before.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        order: &SpawnOrder,
        excluded: &[NodeId],
        probed: bool,
        place: Option<InLine>,
        request: &RequestContext,
    ) -> Result<Placed<HeldSlot>, RegistryError> {
        let (placer, request, mut excluded) = (Arc::clone(self), request.clone(), excluded.to_vec());
        let (ticket, asking) = place.unzip();
        let mut ask = Reserve {
            spawn: SpawnId::mint(),
            demand: order.demand.clone(),
            placement: self.placement,
            avoid: Vec::new(),
            place: ticket.map(|ticket| ticket.id),
            number: ticket.and_then(|ticket| ticket.number),
            probed,
            owner: order.owner.clone(),
            most: order.max_spawns,
        };
        let work = async move {
            let SlotAccess { registry, agents, metrics, .. } = &*placer.access;
            let _asking = match &asking {
                Some(asking) => Some(asking.lock().await),
                None => None,
            };
            let since = Instant::now();
            // In line it is asked again and again: that is one part.
            let span = ask.place.is_none().then(|| request.trace.child("reserve"));
            excluded.append(&mut placer.desired_states.closed());
            let mut unreachable = agents.unreachable();
            unreachable.retain(|node| !excluded.contains(node));
            ask.avoid = excluded.iter().chain(&unreachable).cloned().collect();
            // A call that the open circuit refuses has taken nothing.
            let asked = !registry.is_away();
            let mut reserved = registry.reserve(&ask).await;
            let short = matches!(reserved, Ok(Reserved::Full | Reserved::NoMatch { .. }));
            if short && ask.place.is_none() && !unreachable.is_empty() {
                // Better a node that could not be reached a moment ago than none.
                ask.avoid = excluded;
                reserved = registry.reserve(&ask).await;
            }
            metrics.phase(SpawnPhase::Reserve, since.elapsed(), &request.trace);
            if let Some(span) = span {
                report(span, &reserved);
            }
            match reserved {
                Ok(reserved) => {
                    if let Reserved::NoMatch { fresh: true, .. } = reserved {
                        registry.wiped();
                    }
                    Ok(Placed::from(reserved).map(|slot| {
                        metrics.placement(Source::Registry);
                        HeldSlot::new(&placer.access, slot, request, since)
                    }))
                }
                Err(error) => {
                    if asked {
                        placer.access.release_by_id(ask.spawn);
                    }
                    Err(error)
                }
            }
        };
        self.access.cleanups.finish(work).await
    }

    /// Chooses a node that is not excluded from the last snapshot of the farm; `None` when there is no snapshot of use. The registry
    /// holds nothing for it: the agent decides.
    pub(crate) fn place_from_snapshot(
        &self,
        demand: &Demand,
        excluded: &[NodeId],
        request: &RequestContext,
    ) -> Option<Placed<HeldSlot>> {
        let SlotAccess { snapshot, agents, metrics, .. } = &*self.access;
        let mut excluded = excluded.to_vec();
        excluded.append(&mut self.desired_states.closed());
        let placed = snapshot.choose(demand, &excluded, &agents.unreachable())?;
        Some(placed.map(|Candidate { node, advertise, standing }| {
            metrics.placement(Source::Snapshot);
            let (spawn, proof) = (SpawnId::mint(), Duration::ZERO);
            let chosen = Reservation { spawn, node, advertise, standing, number: None, proof };
            HeldSlot::from_snapshot(&self.access, chosen, request.clone(), demand.renderer)
        }))
    }

    /// What [`Self::reserve`] would come to for a request that has tried no node yet, or [`Self::place_from_snapshot`] where that is
    /// what a request would be placed by. Nothing is reserved.
    pub(crate) async fn forecast(&self, order: &SpawnOrder) -> Result<Foretold, RegistryError> {
        let SlotAccess { registry, agents, snapshot, .. } = &*self.access;
        let closed = self.desired_states.closed();
        let mut unreachable = agents.unreachable();
        unreachable.retain(|node| !closed.contains(node));
        let from_snapshot = || snapshot.forecast(&order.demand, &closed, &unreachable);
        let mut passed_over: Vec<_> = closed.iter().map(|node| (node.clone(), CORDONED)).collect();
        let mut ask = Reserve {
            spawn: SpawnId::mint(),
            demand: order.demand.clone(),
            placement: self.placement,
            avoid: closed.iter().chain(&unreachable).cloned().collect(),
            place: None,
            number: None,
            probed: false,
            owner: order.owner.clone(),
            most: order.max_spawns,
        };
        let mut unreached = Vec::new();
        let is_short =
            |forecast: &Forecast| matches!(forecast.outcome, Foreseen::Full | Foreseen::NoMatch { .. });
        let asked = match registry.forecast(&ask).await {
            Ok(short) if is_short(&short) && !unreachable.is_empty() => {
                ask.avoid.clone_from(&closed);
                let last_choice = registry.forecast(&ask).await;
                if last_choice.as_ref().is_ok_and(|last_choice| !is_short(last_choice)) {
                    passed_over.extend(unreachable.iter().map(|node| (node.clone(), UNREACHABLE)));
                    unreached.clone_from(&unreachable);
                    Ok(short)
                } else {
                    last_choice
                }
            }
            Ok(forecast) => {
                passed_over.extend(unreachable.iter().map(|node| (node.clone(), UNREACHABLE)));
                Ok(forecast)
            }
            Err(error) => Err(error),
        };
        let forecast = match asked {
            Ok(short) if is_short(&short) && registry.refilling() => {
                from_snapshot().filter(|known| !is_short(known)).unwrap_or(short)
            }
            Ok(forecast) => forecast,
            Err(error @ RegistryError::Away(_)) => from_snapshot().ok_or(error)?,
            Err(error) => return Err(error),
        };
        Ok(Foretold { forecast, passed_over, placement: self.placement, unreached })
    }

    /// A node that the registry lacks because it was wiped, or has just come back: agents report within a moment, and until
    /// then the snapshot knows better. `shortage`: what the registry answered.
    pub(crate) async fn place_while_refilling(
        &self,
        shortage: &Placed<HeldSlot>,
        demand: &Demand,
        excluded: &[NodeId],
        request: &RequestContext,
    ) -> Option<HeldSlot> {
        let registry = &self.access.registry;
        let refilling = registry.refilling();
        if !refilling && !matches!(shortage, Placed::NoMatch { known: false }) {
            return None;
        }
        let Placed::Slot(held) = self.place_from_snapshot(demand, excluded, request)? else { return None };
        if !refilling {
            // A registry that knows the node knows better: the node may have other labels by now.
            let known = registry.node(held.node()).await;
            if !matches!(known, Ok(None)) {
                return None;
            }
            registry.wiped();
        }
        Some(held)
    }

    /// Whether the snapshot has an up and eligible node for the demand beside those that were tried.
    pub(crate) fn has_other(&self, demand: &Demand, tried: &[NodeId]) -> bool {
        self.access.snapshot.has_other(demand, tried)
    }

    /// Whether the node's agent could not be reached a moment ago.
    pub(crate) fn is_unreachable(&self, node: &NodeId) -> bool {
        self.access.agents.is_unreachable(node)
    }

    /// Hands the outcomes of a request's starts to the snapshot and, in the background, to the registry.
    pub(crate) fn learn(&self, outcomes: Outcomes) {
        let SlotAccess { registry, snapshot, cleanups, .. } = &*self.access;
        snapshot.learn(&outcomes);
        if registry.is_away() {
            return;
        }
        let registry = Arc::clone(registry);
        cleanups.spawn(async move {
            if let Err(error) = registry.learn(&outcomes).await {
                debug!(%error, "outcomes of starts not learned");
            }
        });
    }
}

/// Ends the part of a trace that a question to the registry is.
fn report(span: Span, reserved: &Result<Reserved, RegistryError>) {
    let outcome = match reserved {
        Ok(Reserved::Slot(slot)) => {
            span.note(NODE_ID, &slot.node);
            "slot"
        }
        Ok(Reserved::Full) => "full",
        Ok(Reserved::NoMatch { .. }) => "no-match",
        Ok(Reserved::OverQuota) => "over-quota",
        Err(error) => return span.end_failed("registry-unavailable", error),
    };
    span.note(OUTCOME, outcome);
    span.end();
}

impl SlotAccess {
    /// Releases the reservation of a spawn whose `reserve` has an unknown outcome. A registry that hung may take the slot only when
    /// it is back, but does so before the calls that come after.
    fn release_by_id(&self, spawn: SpawnId) {
        let registry = Arc::clone(&self.registry);
        self.metrics.cleanup(CleanupKind::ReleaseById);
        self.cleanups.spawn(async move {
            persist(&registry, "release-by-id", || registry.release_by_id(spawn)).await;
        });
    }
}
