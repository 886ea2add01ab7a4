//! Waiting for capacity. The registry keeps the line of the whole farm and its order; this is the part of it at this front door.
//!
//! ```text
//!  enter ─▶ entering (one at a time per demand) ─▶ waiting ─┬─ first: asks when woken, and every half second ─▶ slot
//!                                                           └─ others: ask every two seconds ─▶ first, once those before left
//! ```
//!
//! Owns: the waiters of this front door, one queue for each distinct demand.
//!
//! Invariants: only the first waiter of a demand is woken, so a freed slot does not wake all of them; when it got a slot, or
//! left, the next one asks. Waiters enter the registry's line in the order in which they enter the queue here, so the first here
//! is never behind another of its demand.
//!
//! Failure: the registry may lose that order (it was away, or wiped), so every waiter also asks by itself once in a while. While
//! the registry is away, places are kept. A place that its waiter gives up is taken back in the registry as a clean-up, but for one
//! whose time was up and whose request has an `Idempotency-Key`: it lapses by itself (`Timing::place`), or the same request takes it
//! up again, at whatever front door.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Demand, Owner, TicketId, jittered};
use registry::RegistryError;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, warn};

use super::error::SpawnError;
use super::exclusions::Exclusions;
use super::held_slot::HeldSlot;
use super::order::SpawnOrder;
use super::placer::{Placer, Ticket};
use super::positions::Positions;
use super::progress::Progress;
use crate::callers::{Share, ShareKind};
use crate::metrics::SpawnMetrics;
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::cleanup::{Cleanups, persist};
use crate::registry_access::placed::Placed;
use crate::request_context::RequestContext;

/// The first waiter asks at least this often, woken or not.
const ASK: Duration = Duration::from_millis(500);
/// The others ask this often, in case the order was lost.
const ASK_ANYWAY: Duration = Duration::from_secs(2);
/// How long an answer is waited for that is under way when the wait is over.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// The waiters at this front door.
#[derive(Debug)]
pub(crate) struct Line {
    max: usize,
    /// Never held across an await.
    state: Mutex<State>,
    registry: Arc<RegistryClient>,
    positions: Arc<Positions>,
    cleanups: Cleanups,
    metrics: SpawnMetrics,
}

/// What a waiter asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotRequest<'a> {
    pub(crate) order: &'a SpawnOrder,
    pub(crate) exclusions: &'a Exclusions,
    pub(crate) request: &'a RequestContext,
    pub(crate) progress: &'a Progress,
}

#[derive(Debug, Default)]
struct State {
    /// Places taken, those included that are not in a queue yet.
    places: usize,
    /// Places of owners with a quota.
    owned: HashMap<Owner, u32>,
    queues: HashMap<Demand, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of the registry's line.
    waiters: VecDeque<Arc<Waiter>>,
    /// Held by the waiter that is entering, so that both lines have the same order.
    entrance: Arc<AsyncMutex<()>>,
    /// Places that refer to this queue.
    places: usize,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    /// Notified when it is time to ask.
    turn: Notify,
}

impl Line {
    /// `max`: waiters at once.
    pub(crate) fn new(
        max: usize,
        registry: Arc<RegistryClient>,
        positions: Arc<Positions>,
        cleanups: Cleanups,
        metrics: SpawnMetrics,
    ) -> Self {
        Self { max, state: Mutex::default(), registry, positions, cleanups, metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many waiters are in a queue.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state().queues.values().map(|queue| queue.waiters.len()).sum()
    }

    /// Something came free, somewhere: wakes the first waiter of every demand.
    pub(crate) fn wake(&self) {
        for queue in self.state().queues.values() {
            if let Some(first) = queue.waiters.front() {
                first.turn.notify_one();
            }
        }
    }

    /// Runs for ever: renews the places of all waiters here.
    pub(crate) async fn keep_places(self: Arc<Self>) {
        let every = (self.registry.timing().place / 4).min(Duration::from_secs(1));
        loop {
            sleep(every).await;
            let tickets: Vec<TicketId> = {
                let state = self.state();
                state.queues.values().flat_map(|q| q.waiters.iter().map(|w| w.ticket.id)).collect()
            };
            if tickets.is_empty() {
                continue;
            }
            if let Err(error) = self.registry.keep_places(&tickets).await {
                debug!(%error, places = tickets.len(), "places in line not kept");
            }
        }
    }

    fn enter(
        self: &Arc<Self>,
        placer: &Arc<Placer>,
        order: &SpawnOrder,
        ticket: Ticket,
    ) -> Result<HeldPlace, SpawnError> {
        let mut state = self.state();
        let max = self.max;
        if state.places >= max {
            warn!(most = max, "line full, request turned away");
            return Err(SpawnError::NoCapacity { why: format!("{max} requests wait in line here already") });
        }
        let share = order.account.as_ref().map(|account| account.0.take(ShareKind::Waiting));
        let share = share.transpose().map_err(SpawnError::LimitExceeded)?;
        let limited = order.owner.clone().zip(order.max_spawns);
        if let Some((owner, max)) = &limited {
            // An owner that may have one spawn does not wait for two.
            let places = state.owned.entry(owner.clone()).or_default();
            if *places >= *max {
                return Err(SpawnError::OverQuota { max: *max });
            }
            *places += 1;
        }
        state.places += 1;
        state.queues.entry(order.demand.clone()).or_default().places += 1;
        Ok(HeldPlace {
            line: Arc::clone(self),
            placer: Arc::clone(placer),
            demand: order.demand.clone(),
            limited: limited.map(|(owner, _)| owner),
            waiter: Arc::new(Waiter { ticket, turn: Notify::new() }),
            asking: Arc::default(),
            _share: share,
            counted: false,
            stays: false,
        })
    }

    /// Whether a ticket has a place already: its request has waited before.
    async fn is_back(&self, ticket: Ticket) -> bool {
        self.registry.is_waiting(ticket.id).await.unwrap_or_default()
    }

    /// Puts the waiters of a demand into the order of the registry's line. A request that comes back has its old place there, which
    /// only the line itself knows; were it last here, it would hold up those before it, and ask too seldom.
    async fn reorder(&self, demand: &Demand) {
        let Ok(line) = self.registry.waiting().await else { return };
        let order: HashMap<TicketId, usize> =
            line.iter().enumerate().map(|(at, waiting)| (waiting.ticket, at)).collect();
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(demand) else { return };
        let at = |waiter: &Arc<Waiter>| order.get(&waiter.ticket.id).copied().unwrap_or(usize::MAX);
        queue.waiters.make_contiguous().sort_by_key(at);
        if let Some(first) = queue.waiters.front() {
            first.turn.notify_one();
        }
    }

    /// Waits until there is a slot on a node that is not excluded, or until `end`: then the answer says what is short. An owner that
    /// is over its quota waits no longer. A ticket with a number takes its place before all that came after it.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        placer: &Arc<Placer>,
        wanted: SlotRequest<'_>,
        end: Instant,
        ticket: Ticket,
    ) -> Result<Placed<HeldSlot>, SpawnError> {
        let mut place = self.enter(placer, wanted.order, ticket)?;
        wanted.progress.queue();
        // Where requests share a ticket by their key, each that is watched sees to its own watch.
        let watched = !ticket.returns && wanted.progress.is_watched();
        let _watch = watched.then(|| self.positions.watch(ticket.id, wanted.progress));
        let mut last = Ok(Placed::Full);
        let waiting = async {
            let entrance = place.entrance();
            let entering = entrance.lock_owned().await;
            let returns = ticket.returns && place.has_company() && self.is_back(ticket).await;
            place.line_up();
            last = place.ask(wanted).await;
            place.counted = true;
            self.metrics.joined_line();
            drop(entering);
            if returns {
                self.reorder(&place.demand).await;
            }
            while !matches!(last, Ok(Placed::Slot(_) | Placed::OverQuota)) {
                let pause = jittered(if place.is_first() { ASK } else { ASK_ANYWAY });
                tokio::select! {
                    () = place.waiter.turn.notified() => {}
                    () = sleep(pause) => {}
                    () = sleep_until(end) => break,
                }
                last = place.ask(wanted).await;
            }
        };
        // The last answer decides. A question that is under way at the end is seen through: its answer may be a slot, which would
        // be lost, and the place with it.
        let _late = timeout_at(end + LAST_ANSWER, waiting).await;
        // A place that its request may take up again lapses if that does not come.
        place.stays = ticket.returns || matches!(last, Ok(Placed::Slot(_) | Placed::OverQuota));
        last.map_err(SpawnError::Registry)
    }
}

/// The position of a ticket among the waiters, by the numbers they had before: one that had none has come later.
fn place_of(number: Option<u64>, waiters: impl ExactSizeIterator<Item = Option<u64>>) -> usize {
    let last = waiters.len();
    let Some(number) = number else { return last };
    let mut waiters = waiters;
    waiters.position(|other| other.is_none_or(|other| other > number)).unwrap_or(last)
}

/// One place in line, left when dropped.
#[derive(Debug)]
struct HeldPlace {
    line: Arc<Line>,
    placer: Arc<Placer>,
    demand: Demand,
    /// The owner whose places are counted.
    limited: Option<Owner>,
    waiter: Arc<Waiter>,
    /// Held while the registry is asked: an answer that is still under way could put the ticket back in line.
    asking: Arc<AsyncMutex<()>>,
    /// Its unit of the caller's limit of places in line.
    _share: Option<Share>,
    /// It shows in the metrics, as it does from the first answer on.
    counted: bool,
    /// The registry need not take the ticket back.
    stays: bool,
}

impl HeldPlace {
    fn entrance(&self) -> Arc<AsyncMutex<()>> {
        Arc::clone(&self.line.state().queues.entry(self.demand.clone()).or_default().entrance)
    }

    /// Whether others wait here for the same.
    fn has_company(&self) -> bool {
        self.line.state().queues.get(&self.demand).is_some_and(|queue| !queue.waiters.is_empty())
    }

    fn line_up(&self) {
        let mut state = self.line.state();
        let waiters = &mut state.queues.entry(self.demand.clone()).or_default().waiters;
        let tickets = waiters.iter().map(|waiter| waiter.ticket.number);
        waiters.insert(place_of(self.waiter.ticket.number, tickets), Arc::clone(&self.waiter));
    }

    fn is_first(&self) -> bool {
        let state = self.line.state();
        let first = state.queues.get(&self.demand).and_then(|q| q.waiters.front());
        first.is_some_and(|first| first.ticket.id == self.waiter.ticket.id)
    }

    async fn ask(&self, wanted: SlotRequest<'_>) -> Result<Placed<HeldSlot>, RegistryError> {
        let SlotRequest { order, exclusions, request, .. } = wanted;
        let place = Some((self.waiter.ticket, Arc::clone(&self.asking)));
        self.placer.reserve(order, &exclusions.in_line(), exclusions.has_probed(), place, request).await
    }
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        let ticket = self.waiter.ticket.id;
        let mut state = self.line.state();
        state.places -= 1;
        if let Some(owner) = &self.limited
            && let Some(places) = state.owned.get_mut(owner)
        {
            *places -= 1;
            if *places == 0 {
                state.owned.remove(owner);
            }
        }
        if self.counted {
            self.line.metrics.left_line();
        }
        if let Some(queue) = state.queues.get_mut(&self.demand) {
            queue.waiters.retain(|waiter| waiter.ticket.id != ticket);
            queue.places -= 1;
            // The first may have gone: the one that is first now asks.
            if let Some(first) = queue.waiters.front() {
                first.turn.notify_one();
            } else if queue.places == 0 {
                state.queues.remove(&self.demand);
            }
        }
        drop(state);
        if !self.stays {
            let (registry, asking) = (Arc::clone(&self.line.registry), Arc::clone(&self.asking));
            self.line.cleanups.spawn(async move {
                // After the answer that is under way, which could put the ticket back in line.
                let _asked = asking.lock().await;
                persist(&registry, "leave the line", || registry.leave_line(std::slice::from_ref(&ticket)))
                    .await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::place_of;

    #[test]
    fn a_ticket_comes_back_to_its_place() {
        for (number, waiters, expected) in [
            (None, &[][..], 0),
            (None, &[Some(1), None], 2),
            (Some(3), &[], 0),
            (Some(3), &[None, None], 0),
            (Some(3), &[Some(2), None], 1),
            (Some(3), &[Some(2), Some(4), None], 1),
            (Some(3), &[Some(1), Some(2)], 2),
        ] {
            assert_eq!(place_of(number, waiters.iter().copied()), expected, "{number:?} {waiters:?}");
        }
    }
}
