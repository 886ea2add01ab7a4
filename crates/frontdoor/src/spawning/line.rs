//! Waiting for capacity. The registry keeps the line of the whole farm and sees to its order; this is the part of it
//! that stands at this front door.
//!
//! To keep a freed slot from waking everybody, only the earliest waiter here per distinct demand asks the registry; when
//! it got a slot, or left, the next one asks. Since waiters enter the registry's line in the order in which they enter
//! the one here, the earliest here is never behind another of its demand. Should the registry have lost that order (it
//! was away, or wiped), every waiter also asks by itself once in a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Demand, Owner, RequestId, TicketId};
use registry::RegistryError;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use crate::callers::{Kind, Share};
use crate::registry_access::cleanup::{jittered, persist};
use crate::spawning::exclusions::Exclusions;
use crate::spawning::order::Order;
use crate::spawning::spawner::SpawnError;
use crate::start::door::{Door, Got};

/// The first waiter asks at least this often, nudged or not.
const ASK: Duration = Duration::from_millis(500);
/// The others ask this often, in case the order was lost.
const ASK_ANYWAY: Duration = Duration::from_secs(2);

/// Those who wait at this front door.
#[derive(Debug)]
pub(crate) struct Line {
    most: usize,
    /// Never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Places taken, those included that are not in a queue yet.
    places: usize,
    /// Places of those who may not have any number of spawns.
    owned: HashMap<Owner, u32>,
    queues: HashMap<Demand, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of the registry's line.
    waiters: VecDeque<Arc<Waiter>>,
    /// Held by whoever is entering, so that both lines have the same order.
    door: Arc<AsyncMutex<()>>,
    /// Places that refer to this queue.
    places: usize,
}

/// A place in line across the slots that turned out to be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) id: TicketId,
    /// The number that the place had before it was given up for a slot.
    pub(crate) number: Option<u64>,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    /// Rings when it is time to ask.
    turn: Notify,
}

impl Line {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have been put in line and wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state().queues.values().map(|queue| queue.waiters.len()).sum()
    }

    /// Something came free, somewhere: the first of every demand asks.
    pub(crate) fn nudge(&self) {
        for queue in self.state().queues.values() {
            if let Some(first) = queue.waiters.front() {
                first.turn.notify_one();
            }
        }
    }

    /// Renews the places of all who wait here, for ever.
    pub(crate) async fn keep_places(door: Arc<Door>) {
        let every = (door.registry.timing().place / 4).min(Duration::from_secs(1));
        loop {
            sleep(every).await;
            let tickets: Vec<TicketId> = {
                let state = door.line.state();
                state.queues.values().flat_map(|q| q.waiters.iter().map(|w| w.ticket.id)).collect()
            };
            if tickets.is_empty() {
                continue;
            }
            if let Err(error) = door.registry.keep_places(&tickets).await {
                debug!(%error, places = tickets.len(), "places in line not kept");
            }
        }
    }

    fn enter(door: &Arc<Door>, order: &Order, ticket: Ticket) -> Result<Place, SpawnError> {
        let mut state = door.line.state();
        let most = door.line.most;
        if state.places >= most {
            warn!(most, "line full, request turned away");
            return Err(SpawnError::NoCapacity { why: format!("{most} requests wait in line here already") });
        }
        let share = order.account.as_ref().map(|account| account.0.take(Kind::Waiting));
        let share = share.transpose().map_err(SpawnError::Refused)?;
        let limited = order.owner.clone().zip(order.most);
        if let Some((owner, most)) = &limited {
            // Whoever may have one spawn does not wait for two.
            let places = state.owned.entry(owner.clone()).or_default();
            if *places >= *most {
                return Err(SpawnError::OverQuota { most: *most });
            }
            *places += 1;
        }
        state.places += 1;
        state.queues.entry(order.demand.clone()).or_default().places += 1;
        Ok(Place {
            door: Arc::clone(door),
            demand: order.demand.clone(),
            limited: limited.map(|(owner, _)| owner),
            waiter: Arc::new(Waiter { ticket, turn: Notify::new() }),
            asking: Arc::default(),
            _share: share,
            counted: false,
            given_up: false,
        })
    }
}

/// Waits until there is a slot on a node that is not excluded, or until `end`: then the answer says what is short. While the
/// registry is away, places are kept as they are. An owner who has as many spawns as it may have waits no longer. A ticket
/// with a number takes its place before all that came after it.
pub(crate) async fn wait(
    door: &Arc<Door>,
    order: &Order,
    end: Instant,
    ticket: Ticket,
    exclusions: &Exclusions,
    request: &RequestId,
) -> Result<Got, SpawnError> {
    let mut place = Line::enter(door, order, ticket)?;
    let mut last = Ok(Got::Full);
    let waiting = async {
        let entrance = place.entrance();
        let entering = entrance.lock_owned().await;
        place.line_up();
        last = place.ask(order, exclusions, request).await;
        place.counted = true;
        door.metrics.joined_line();
        drop(entering);
        while !matches!(last, Ok(Got::Slot(_) | Got::OverQuota)) {
            let pause = jittered(if place.is_first() { ASK } else { ASK_ANYWAY });
            tokio::select! {
                () = place.waiter.turn.notified() => {}
                () = sleep(pause) => {}
            }
            last = place.ask(order, exclusions, request).await;
        }
    };
    // What the last answer was is told either way.
    let _over = timeout_at(end, waiting).await;
    if matches!(last, Ok(Got::Slot(_) | Got::OverQuota)) {
        place.given_up = true;
    }
    last.map_err(SpawnError::Registry)
}

/// Where a ticket belongs among those that wait, by the numbers they had before: one that had none has come later.
fn place_of(number: Option<u64>, waiters: impl ExactSizeIterator<Item = Option<u64>>) -> usize {
    let last = waiters.len();
    let Some(number) = number else { return last };
    let mut waiters = waiters;
    waiters.position(|other| other.is_none_or(|other| other > number)).unwrap_or(last)
}

/// One place in line, left when dropped.
#[derive(Debug)]
struct Place {
    door: Arc<Door>,
    demand: Demand,
    /// Whose places are counted.
    limited: Option<Owner>,
    waiter: Arc<Waiter>,
    /// Held while the registry is asked: an answer that is still under way could put the ticket back in line.
    asking: Arc<AsyncMutex<()>>,
    /// Of the places that the caller may have.
    _share: Option<Share>,
    /// It shows in the figures, as it does from the first answer on.
    counted: bool,
    /// The registry has taken the ticket back.
    given_up: bool,
}

impl Place {
    fn entrance(&self) -> Arc<AsyncMutex<()>> {
        Arc::clone(&self.door.line.state().queues.entry(self.demand.clone()).or_default().door)
    }

    fn line_up(&self) {
        let mut state = self.door.line.state();
        let waiters = &mut state.queues.entry(self.demand.clone()).or_default().waiters;
        let tickets = waiters.iter().map(|waiter| waiter.ticket.number);
        waiters.insert(place_of(self.waiter.ticket.number, tickets), Arc::clone(&self.waiter));
    }

    fn is_first(&self) -> bool {
        let state = self.door.line.state();
        let first = state.queues.get(&self.demand).and_then(|q| q.waiters.front());
        first.is_some_and(|first| first.ticket.id == self.waiter.ticket.id)
    }

    async fn ask(
        &self,
        order: &Order,
        exclusions: &Exclusions,
        request: &RequestId,
    ) -> Result<Got, RegistryError> {
        let place = Some((self.waiter.ticket, Arc::clone(&self.asking)));
        self.door.reserve(order, &exclusions.in_line(), exclusions.has_probed(), place, request).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ticket = self.waiter.ticket.id;
        let mut state = self.door.line.state();
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
            self.door.metrics.left_line();
        }
        if let Some(queue) = state.queues.get_mut(&self.demand) {
            queue.waiters.retain(|waiter| waiter.ticket.id != ticket);
            queue.places -= 1;
            // Who was first has gone: whoever is first now asks.
            if let Some(first) = queue.waiters.front() {
                first.turn.notify_one();
            } else if queue.places == 0 {
                state.queues.remove(&self.demand);
            }
        }
        drop(state);
        if !self.given_up {
            let (door, asking) = (Arc::clone(&self.door), Arc::clone(&self.asking));
            self.door.cleanups.spawn(async move {
                let _asked = asking.lock().await;
                persist(&door.registry, "leave the line", || {
                    door.registry.leave_line(std::slice::from_ref(&ticket))
                })
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
