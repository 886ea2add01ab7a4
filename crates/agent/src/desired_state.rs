//! The desired state of the node: what an operator ordered, as far as this agent knows.
//!
//! ```text
//!               order or registry, higher generation
//!   eligible ◀────────────────────────────────────────▶ cordoned
//!       ▲                                                   ▲
//!       └──────────────▶ draining until DEADLINE ◀──────────┘
//!                           at the deadline: what still runs is ended (see `drain`)
//! ```
//!
//! Orders have generations that only rise; the higher one wins, wherever it comes from. A deadline moves only with a new order, never
//! with a repeated report of the same one. Nothing here has a lock or a clock: the caller says what time it is.

use std::time::Duration;

use model::{Eligibility, Timestamp, timing};
use tokio::time::Instant;

/// A drain: no spawn is admitted, and what still runs at the deadline is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveDrain {
    pub(crate) deadline: Instant,
    pub(crate) started: Instant,
    pub(crate) reason: Option<String>,
    pub(crate) by: Option<String>,
    /// The deadline by the registry's clock; equal for two reports of the same drain. Absent until the registry has passed it on.
    pub(crate) named: Option<Timestamp>,
}

/// The desired state of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DesiredState {
    /// Number of the order; a higher one replaces a lower one, wherever it comes from.
    pub(crate) generation: u64,
    pub(crate) eligibility: Eligibility,
    /// Present exactly when draining.
    pub(crate) drain: Option<ActiveDrain>,
}

/// An order as a front door gives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct EligibilityOrder {
    /// 0 from a front door that does not number orders: it is newer than what is known.
    pub(crate) generation: u64,
    pub(crate) eligibility: Eligibility,
    /// The time that is left for what runs; goes with draining.
    pub(crate) within: Option<Duration>,
    pub(crate) reason: Option<String>,
    pub(crate) by: Option<String>,
}

/// The desired state and where it comes from.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    pub(crate) desired: DesiredState,
    /// Whether a front door or the registry has stated it in this life of the agent. `false` while only an earlier agent's file does.
    pub(crate) confirmed: bool,
}

/// What the registry's view has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Learned {
    /// The desired state is another one.
    pub(crate) changed: bool,
    /// It is confirmed for the first time in this life of the agent.
    pub(crate) confirmed: bool,
}

impl Operator {
    /// Applies an order of a front door, unless it is older than the known one. Returns whether it was applied.
    pub(crate) fn order(&mut self, order: EligibilityOrder, now: Instant) -> bool {
        let EligibilityOrder { generation, eligibility, within, reason, by } = order;
        let known = self.desired.generation;
        if generation != 0 && generation < known {
            return false;
        }
        let generation = if generation == 0 { known.saturating_add(1) } else { generation };
        self.confirmed = true;
        let before = self.desired.drain.take();
        let drain = (eligibility == Eligibility::Draining).then(|| match (before, within) {
            // The registry has passed on this very order already.
            (Some(drain), _) if generation == known && drain.named.is_some() => drain,
            // The same call again must not put the deadline off.
            (Some(drain), None) => drain,
            (before, within) => ActiveDrain {
                deadline: now + within.unwrap_or(timing::DRAIN_DEADLINE),
                started: before.as_ref().map_or(now, |drain| drain.started),
                reason: reason.or_else(|| before.as_ref()?.reason.clone()),
                by: by.or_else(|| before.as_ref()?.by.clone()),
                named: None,
            },
        });
        self.desired = DesiredState { generation, eligibility, drain };
        true
    }

    /// Applies the desired state as the registry has it, unless the known one has a higher generation: a registry that was wiped or
    /// went back to an older state learns it from the agent instead.
    pub(crate) fn learn(
        &mut self,
        generation: u64,
        eligibility: Eligibility,
        drain: Option<(model::Drain, Duration)>,
        now: Instant,
    ) -> Learned {
        let mine = &self.desired;
        if generation < mine.generation {
            return Learned { changed: false, confirmed: false };
        }
        // A higher number is another order, and its deadline is its own.
        let known = mine.drain.as_ref().filter(|_| generation == mine.generation);
        let drain = (eligibility == Eligibility::Draining).then(|| match (known, drain) {
            (Some(known), None) => known.clone(),
            (Some(known), Some((ordered, _))) if known.named == Some(ordered.deadline) => known.clone(),
            (_, Some((ordered, left))) => learned(ordered, left, now),
            (None, None) => ActiveDrain {
                deadline: now + timing::DRAIN_DEADLINE,
                started: now,
                reason: None,
                by: None,
                named: None,
            },
        });
        let desired = DesiredState { generation, eligibility, drain };
        let changed = desired != *mine;
        let news = !std::mem::replace(&mut self.confirmed, true);
        self.desired = desired;
        Learned { changed, confirmed: news }
    }
}

fn learned(ordered: model::Drain, left: Duration, now: Instant) -> ActiveDrain {
    let age = ordered.deadline.since(ordered.started_at).saturating_sub(left);
    ActiveDrain {
        deadline: now + left,
        started: now.checked_sub(age).unwrap_or(now),
        reason: ordered.reason,
        by: ordered.by,
        named: Some(ordered.deadline),
    }
}
