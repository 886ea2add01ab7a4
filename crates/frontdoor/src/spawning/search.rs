//! The search of one request for a node that takes its spawn: the registry; the snapshot, where the registry cannot be asked or
//! lacks what it knew; and the line, while the farm is full.
//!
//! Invariants: the deadline counts from the first reservation, and time in line does not count. A request keeps its place in line
//! while a slot turns out to be none.

use std::sync::Arc;
use std::time::Duration;

use registry::{IdempotencyKey, RegistryError, Standing};
use tokio::time::{Instant, sleep_until};
use traces::attribute::OUTCOME;

use super::attempts::Attempts;
use super::error::{CLOSED, FULL, FULL_OR_UNREACHED, NO_MATCH, SpawnError, UNREACHED};
use super::exclusions::Exclusions;
use super::held_slot::HeldSlot;
use super::line::{Line, SlotRequest};
use super::order::SpawnOrder;
use super::placer::{Placer, Ticket};
use super::progress::Progress;
use crate::agent_client::{FURTHER_CONNECT, connect_timeout};
use crate::metrics::{SpawnMetrics, SpawnPhase};
use crate::registry_access::placed::Placed;
use crate::request_context::RequestContext;

/// An attempt is begun only when at least this part of the deadline is left.
const USEFUL_PART: u32 = 10;
/// In line, so much time lies between an attempt that started nothing and the next.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// A slot on a node.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) held: HeldSlot,
    /// Until when the spawn must be ready.
    pub(super) deadline: Instant,
    /// How long to wait for a connection to the agent.
    pub(super) connect: Duration,
}

/// What every search of one front door uses.
#[derive(Debug)]
pub(super) struct SpawnPath {
    pub(super) placer: Arc<Placer>,
    pub(super) line: Arc<Line>,
    /// The time of all attempts of a request together.
    pub(super) deadline: Duration,
    pub(super) metrics: SpawnMetrics,
}

/// See the module's documentation. Dropping it reports the outcomes of its attempts to the registry and the snapshot.
#[derive(Debug)]
pub(super) struct Search<'a> {
    path: &'a SpawnPath,
    order: &'a SpawnOrder,
    pub(super) request: &'a RequestContext,
    /// An `Idempotency-Key` is to be kept.
    keyed: bool,
    /// When waiting in line is over.
    wait_end: Instant,
    /// Counts from the first reservation; time in line does not count.
    deadline: Option<Instant>,
    /// The time in line so far.
    pub(super) waited: Duration,
    /// The place in line, kept while a slot turns out to be none.
    ticket: Ticket,
    pub(super) attempts: Attempts,
    pub(super) exclusions: Exclusions,
    pub(super) progress: &'a Progress,
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        if let Some(outcomes) = self.attempts.outcomes() {
            self.path.placer.learn(outcomes);
        }
    }
}

impl<'a> Search<'a> {
    pub(super) fn new(
        path: &'a SpawnPath,
        (order, request): (&'a SpawnOrder, &'a RequestContext),
        key: Option<&IdempotencyKey>,
        progress: &'a Progress,
    ) -> Self {
        Self {
            path,
            order,
            request,
            keyed: key.is_some(),
            wait_end: Instant::now() + order.wait,
            deadline: None,
            waited: Duration::ZERO,
            ticket: Ticket::of(key),
            attempts: Attempts::new(order.demand.clone()),
            exclusions: Exclusions::default(),
            progress,
        }
    }

    /// A slot on a node that is not excluded. The error is the answer.
    pub(super) async fn slot(&mut self) -> Result<Slot, SpawnError> {
        loop {
            if self.is_late() || !self.attempts.may_go_on() {
                return Err(self.exhausted());
            }
            let excluded = self.exclusions.all();
            let probed = self.exclusions.has_probed();
            let shortage =
                match self.path.placer.reserve(self.order, &excluded, probed, None, self.request).await {
                    Ok(Placed::Slot(held)) => return Ok(self.begin(held)),
                    Ok(over @ Placed::OverQuota) => return Err(self.give_up(&over)),
                    Ok(short) => {
                        if let Some(held) = self.not_yet_known(&short).await {
                            return Ok(self.begin(held));
                        }
                        short
                    }
                    Err(error) => return self.without_registry(error),
                };
            if self.exclusions.ask_connecting_again() {
                continue;
            }
            if Instant::now() >= self.wait_end
                || (self.attempts.is_empty() && matches!(shortage, Placed::NoMatch { known: false }))
                || (self.attempts.has_answer() && !self.path.placer.has_other(&self.order.demand, &excluded))
            {
                return Err(self.give_up(&shortage));
            }
            return self.queue().await;
        }
    }

    /// Waits in line for a slot.
    async fn queue(&mut self) -> Result<Slot, SpawnError> {
        let began = Instant::now();
        let span = self.request.trace.child("line");
        if let Some(last) = self.exclusions.last() {
            sleep_until(self.wait_end.min(last + MIN_PAUSE)).await;
        }
        let wanted = SlotRequest {
            order: self.order,
            exclusions: &self.exclusions,
            request: self.request,
            progress: self.progress,
        };
        let placed = self.path.line.wait(&self.path.placer, wanted, self.wait_end, self.ticket).await;
        self.path.metrics.phase(SpawnPhase::Queue, began.elapsed(), &self.request.trace);
        self.deadline = self.deadline.map(|deadline| deadline + began.elapsed());
        self.waited += began.elapsed();
        match &placed {
            Ok(placed) => {
                span.note(OUTCOME, placed.word());
                span.end();
            }
            Err(SpawnError::Registry(error)) => span.end_failed("registry-unavailable", error),
            Err(_) => span.end_failed("turned-away", "there was no place in line for it"),
        }
        match placed {
            Ok(Placed::Slot(held)) => Ok(self.begin(held)),
            Ok(short) => match self.not_yet_known(&short).await {
                Some(held) => Ok(self.begin(held)),
                None => Err(self.give_up(&short)),
            },
            Err(SpawnError::Registry(error)) => self.without_registry(error),
            Err(error) => Err(error),
        }
    }

    /// A slot that only the snapshot knows of, because the registry was wiped or has just come back.
    async fn not_yet_known(&self, shortage: &Placed<HeldSlot>) -> Option<HeldSlot> {
        let excluded = self.exclusions.all();
        let placer = &self.path.placer;
        placer.place_while_refilling(shortage, &self.order.demand, &excluded, self.request).await
    }

    /// The registry could not be asked: a node from the last snapshot, unless there is a key whose promise could not be kept.
    fn without_registry(&mut self, error: RegistryError) -> Result<Slot, SpawnError> {
        let placed = match error {
            RegistryError::Away(_) if !self.keyed => {
                let excluded = self.exclusions.all();
                self.path.placer.place_from_snapshot(&self.order.demand, &excluded, self.request)
            }
            RegistryError::Away(_) | RegistryError::Unexpected { .. } => None,
        };
        match placed {
            Some(Placed::Slot(held)) => Ok(self.begin(held)),
            Some(short) => Err(self.give_up(&short)),
            None => Err(SpawnError::Registry(error)),
        }
    }

    fn begin(&mut self, held: HeldSlot) -> Slot {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert_with(|| now + self.path.deadline);
        self.ticket.number = held.number().or(self.ticket.number);
        if matches!(held.standing(), Standing::Probe | Standing::LastChoice) {
            self.exclusions.probed();
        }
        let left = deadline.saturating_duration_since(now);
        // A node that is known to be hard to reach is chosen only when no other has room.
        let waits = !self.exclusions.has_unreachable() || self.path.placer.is_unreachable(held.node());
        let connect = connect_timeout(left).min(if waits { Duration::MAX } else { FURTHER_CONNECT });
        Slot { held, deadline, connect }
    }

    /// Whether too little of the deadline is left for another attempt.
    fn is_late(&self) -> bool {
        let useful = self.path.deadline / USEFUL_PART;
        self.deadline.is_some_and(|deadline| deadline.saturating_duration_since(Instant::now()) < useful)
    }

    /// Time or attempts are used up.
    fn exhausted(&self) -> SpawnError {
        self.attempts.answer().unwrap_or_else(|| {
            let last = self.attempts.last().unwrap_or_default();
            match self.attempts.unreached() {
                Some(_) => self.full_or_unreached(&format!("; last tried was {last}")),
                None => {
                    SpawnError::NoCapacity { why: format!("no node took the spawn; last tried was {last}") }
                }
            }
        })
    }

    fn give_up(&self, shortage: &Placed<HeldSlot>) -> SpawnError {
        if let Placed::OverQuota = shortage {
            return SpawnError::OverQuota { max: self.order.max_spawns.unwrap_or_default() };
        }
        if let Some(answer) = self.attempts.answer() {
            return answer;
        }
        let last = self.attempts.last().map(|last| format!("; last tried was {last}")).unwrap_or_default();
        match shortage {
            Placed::NoMatch { known: false } => {
                SpawnError::NoMatchingNode { why: format!("{NO_MATCH}{last}") }
            }
            Placed::NoMatch { known: true } => SpawnError::NoMatchingNode { why: format!("{CLOSED}{last}") },
            Placed::Full | Placed::Slot(_) | Placed::OverQuota => self.full_or_unreached(&last),
        }
    }

    /// Full, unless the nodes that were tried could not be reached.
    fn full_or_unreached(&self, last: &str) -> SpawnError {
        match self.attempts.unreached() {
            None => SpawnError::NoCapacity { why: format!("{FULL}{last}") },
            Some(_) if self.path.placer.has_other(&self.order.demand, &self.exclusions.all()) => {
                SpawnError::NoCapacity { why: format!("{FULL_OR_UNREACHED}{last}") }
            }
            Some(node) => SpawnError::Unreachable { node: node.clone(), why: format!("{UNREACHED}{last}") },
        }
    }
}
