//! Operators' orders to a node. `redis/lua/order.lua` does the same.
//!
//! Orders have numbers that only rise, and the higher number wins. It may come from an operator's call, from an agent that
//! remembers what a wiped registry has lost, or from a front door that repeats it. A new order's number is at least the
//! clock in milliseconds, so it is higher than any that an earlier registry gave.
//!
//! ```text
//!             cordon                    drain
//! eligible ──────────▶ cordoned ──────────────────▶ draining ── no slot is used ──▶ `node.drained`
//!   ▲  │  ▲               │  ▲                        │  │
//!   │  │  └── uncordon ───┘  └──────── cordon ────────┘  │
//!   │  └──────────────────────── drain ──────────────▶───┤
//!   └───────────────────────── uncordon ─────────────────┘
//! ```
//!
//! The registry only records a drain's deadline: the agent ends what still runs then.

use model::{Availability, Drain, Eligibility, EventKind, NodeId};

use super::farm::Farm;
use crate::ask::Restored;
use crate::report::DesiredStateReport;

impl Farm {
    pub(super) fn set_eligibility(
        &mut self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        by: Option<&str>,
    ) -> Option<u64> {
        let forgotten = self.last_forgotten(node).unwrap_or_default();
        let generation = (self.nodes.get(node)?.generation.max(forgotten) + 1).max(self.now.millis());
        self.set_order(node, eligibility, drain, generation, by);
        Some(generation)
    }

    pub(super) fn restore_order(
        &mut self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        generation: u64,
    ) -> Restored {
        if self.last_forgotten(node).is_some_and(|last| generation <= last) {
            return Restored::Forgotten;
        }
        if self.nodes.get(node).is_none_or(|state| state.generation >= generation) {
            return Restored::NotNeeded;
        }
        self.set_order(node, eligibility, drain, generation, None);
        Restored::Taken
    }

    /// The number up to which orders to a node are not repeated; `None`: no operator has had it forgotten lately.
    fn last_forgotten(&self, node: &NodeId) -> Option<u64> {
        let (at, last) = self.forgotten.get(node)?;
        (self.now.since(*at) < self.timing.forget).then_some(*last)
    }

    /// Takes an order. The caller has compared the numbers.
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
            self.history.publish(self.now, self.now, kind, node, None, data);
            if eligibility == Eligibility::Draining && empty {
                self.publish_node(EventKind::NodeDrained, node);
            }
        }
        self.wake_line();
    }

    /// Takes an order that the agent has and this registry lacks.
    pub(super) fn agree(&mut self, node: &NodeId, desired: &DesiredStateReport) {
        if self.nodes.get(node).is_some_and(|state| state.generation < desired.generation) {
            let drain = self.remembered(desired);
            self.set_order(node, desired.eligibility, drain.as_ref(), desired.generation, None);
        }
    }

    /// The drain that an agent remembers, in the registry's time.
    pub(super) fn remembered(&self, desired: &DesiredStateReport) -> Option<Drain> {
        let drain = desired.drain.as_ref().filter(|_| desired.eligibility == Eligibility::Draining)?;
        Some(Drain {
            deadline: self.after(drain.left),
            reason: drain.reason.clone(),
            by: drain.by.clone(),
            started_at: self.now.before(drain.age),
        })
    }
}
