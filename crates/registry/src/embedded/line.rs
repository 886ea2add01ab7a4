//! The waiting line: first come, first served, with one queue per kind of node and renderer.
//!
//! A ticket stands with one number in every queue that could serve it. Its holder renews it; a ticket that lapses is
//! dropped when it is met, or by the sweep, so that a dead front door's waiters block no others.

use std::collections::{BTreeSet, HashMap};

use model::{NodeId, NodeKind, RendererType, TicketId, Timestamp};

use crate::ask::Reserve;
use crate::waiting::{MAX_LISTED, Place, Waiter, WaitingRequest, positions};

/// A kind of node, and a renderer wanted of it.
pub(super) type Queue = (NodeKind, RendererType);

#[derive(Debug, Clone)]
struct Ticket {
    number: u64,
    /// The place lapses at this moment unless it is renewed.
    until: Timestamp,
    queues: Vec<Queue>,
    /// Nodes that its holder cannot use.
    avoid: Vec<NodeId>,
    since: Timestamp,
    waiter: Waiter,
}

/// All tickets and queues.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    last_number: u64,
    tickets: HashMap<TicketId, Ticket>,
    queues: HashMap<Queue, BTreeSet<(u64, TicketId)>>,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// The number of a place that has not lapsed.
    pub(super) fn number(&self, ticket: TicketId, now: Timestamp) -> Option<u64> {
        self.tickets.get(&ticket).filter(|t| t.until > now).map(|t| t.number)
    }

    /// Whether a ticket has a place, lapsed or not.
    pub(super) fn is_in(&self, ticket: TicketId) -> bool {
        self.tickets.contains_key(&ticket)
    }

    /// Whether a waiter with a lower number is in this queue and can use a slot of it; `can_use` gets the nodes that the
    /// waiter must avoid. Drops lapsed places on the way.
    pub(super) fn has_before(
        &mut self,
        queue: &Queue,
        number: u64,
        now: Timestamp,
        can_use: impl Fn(&[NodeId]) -> bool,
    ) -> bool {
        let Some(places) = self.queues.get(queue) else { return false };
        let (mut dead, mut found) = (Vec::new(), false);
        for (_, id) in places.iter().take_while(|(n, _)| *n < number) {
            match self.tickets.get(id) {
                Some(ticket) if ticket.until > now => {
                    found = can_use(&ticket.avoid);
                    if found {
                        break;
                    }
                }
                _ => dead.push(*id),
            }
        }
        for ticket in dead {
            self.leave(ticket);
        }
        found
    }

    /// Puts a ticket into every queue of these kinds. It keeps its number, or gets the one that the request brings along.
    pub(super) fn join<'a>(
        &mut self,
        ticket: TicketId,
        ask: &Reserve,
        kinds: impl Iterator<Item = &'a NodeKind>,
        (now, until): (Timestamp, Timestamp),
    ) {
        let waiter = Waiter { demand: ask.demand.clone(), owner: ask.owner.clone() };
        let entry = self.tickets.entry(ticket).or_insert_with(|| {
            let number = ask.number.unwrap_or(self.last_number + 1);
            self.last_number = self.last_number.max(number);
            Ticket {
                number,
                until,
                queues: Vec::new(),
                avoid: Vec::new(),
                since: now,
                waiter: waiter.clone(),
            }
        });
        entry.waiter = waiter;
        entry.until = until;
        entry.avoid.clone_from(&ask.avoid);
        for kind in kinds {
            let queue = (kind.clone(), ask.demand.renderer);
            if !entry.queues.contains(&queue) {
                self.queues.entry(queue.clone()).or_default().insert((entry.number, ticket));
                entry.queues.push(queue);
            }
        }
    }

    /// The places that have not lapsed, from the front.
    pub(super) fn waiting(&self, now: Timestamp) -> Vec<WaitingRequest> {
        let mut line: Vec<_> = self.tickets.iter().filter(|(_, ticket)| ticket.until > now).collect();
        line.sort_unstable_by_key(|(id, ticket)| (ticket.number, **id));
        let place = |(id, ticket): (&TicketId, &Ticket)| {
            let kinds: BTreeSet<String> = ticket.queues.iter().map(|(kind, _)| kind.to_string()).collect();
            Place {
                ticket: *id,
                kinds: kinds.into_iter().collect(),
                since: Some(ticket.since),
                waiter: Some(ticket.waiter.clone()),
            }
        };
        positions(line.into_iter().take(MAX_LISTED).map(place).collect())
    }

    pub(super) fn keep(&mut self, ticket: TicketId, until: Timestamp) {
        if let Some(ticket) = self.tickets.get_mut(&ticket) {
            ticket.until = until;
        }
    }

    pub(super) fn leave(&mut self, ticket: TicketId) -> bool {
        let Some(gone) = self.tickets.remove(&ticket) else { return false };
        for queue in gone.queues {
            if let Some(places) = self.queues.get_mut(&queue) {
                places.remove(&(gone.number, ticket));
                if places.is_empty() {
                    self.queues.remove(&queue);
                }
            }
        }
        true
    }

    /// Drops every lapsed place. Returns whether there was one.
    pub(super) fn sweep(&mut self, now: Timestamp) -> bool {
        let dead: Vec<_> = self.tickets.iter().filter(|(_, t)| t.until <= now).map(|(id, _)| *id).collect();
        for ticket in &dead {
            self.leave(*ticket);
        }
        !dead.is_empty()
    }
}
