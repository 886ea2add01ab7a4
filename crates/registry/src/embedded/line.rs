//! The line of those who wait for capacity: first come, first served, per kind of node and renderer.

use std::collections::{BTreeMap, HashMap};

use model::{Demand, NodeKind, RendererType, TicketId, Timestamp};

/// A kind of node, and a renderer wanted of it.
pub(super) type Queue = (NodeKind, RendererType);

#[derive(Debug)]
struct Ticket {
    number: u64,
    /// Past this the place is not kept.
    until: Timestamp,
    queues: Vec<Queue>,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Line {
    last_number: u64,
    tickets: HashMap<TicketId, Ticket>,
    queues: HashMap<Queue, BTreeMap<u64, TicketId>>,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// The number of a place that is still kept.
    pub(super) fn number(&self, ticket: TicketId, now: Timestamp) -> Option<u64> {
        self.tickets.get(&ticket).filter(|t| t.until > now).map(|t| t.number)
    }

    /// The number of the first in a queue; drops places that were not kept.
    pub(super) fn first(&mut self, queue: &Queue, now: Timestamp) -> Option<u64> {
        loop {
            let (number, ticket) = self.queues.get(queue)?.first_key_value().map(|(n, t)| (*n, *t))?;
            if self.tickets.get(&ticket).is_some_and(|t| t.until > now) {
                return Some(number);
            }
            self.leave(ticket);
        }
    }

    /// Puts a ticket in every queue of these kinds; its number stays the same.
    pub(super) fn join<'a>(
        &mut self,
        ticket: TicketId,
        demand: &Demand,
        kinds: impl Iterator<Item = &'a NodeKind>,
        until: Timestamp,
    ) {
        let entry = self.tickets.entry(ticket).or_insert_with(|| {
            self.last_number += 1;
            Ticket { number: self.last_number, until, queues: Vec::new() }
        });
        entry.until = until;
        for kind in kinds {
            let queue = (kind.clone(), demand.renderer);
            if !entry.queues.contains(&queue) {
                self.queues.entry(queue.clone()).or_default().insert(entry.number, ticket);
                entry.queues.push(queue);
            }
        }
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
                places.remove(&gone.number);
                if places.is_empty() {
                    self.queues.remove(&queue);
                }
            }
        }
        true
    }

    /// Drops every place that was not kept; whether there was one.
    pub(super) fn sweep(&mut self, now: Timestamp) -> bool {
        let dead: Vec<_> = self.tickets.iter().filter(|(_, t)| t.until <= now).map(|(id, _)| *id).collect();
        for ticket in &dead {
            self.leave(*ticket);
        }
        !dead.is_empty()
    }
}
