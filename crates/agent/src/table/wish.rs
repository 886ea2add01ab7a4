//! What the operator wants of the node, as far as this agent knows.

use std::sync::Arc;
use std::time::Duration;

use model::{Eligibility, Timestamp, timing};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Table;

/// As long as only an earlier agent's memory asks for it, nobody is ended within this time of the start: the operator may
/// have changed their mind while no agent listened, which the registry's first answer tells.
const SECOND_THOUGHTS: Duration = Duration::from_secs(10);

/// Nobody is let in, and what runs when the deadline comes is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drain {
    pub(crate) deadline: Instant,
    pub(crate) started: Instant,
    pub(crate) reason: Option<String>,
    pub(crate) by: Option<String>,
    /// The deadline by the registry's clock, which says whether two tell of the same drain.
    pub(crate) named: Option<Timestamp>,
}

/// The desired state of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wish {
    /// Number of the order; a higher one replaces a lower one, wherever it comes from.
    pub(crate) generation: u64,
    pub(crate) eligibility: Eligibility,
    /// Present exactly when draining.
    pub(crate) drain: Option<Drain>,
}

/// An order as a front door gives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
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
pub(super) struct Operator {
    pub(super) wish: Wish,
    /// Whether it was heard in this life of the agent, rather than remembered from an earlier one.
    confirmed: bool,
    bell: Arc<Notify>,
}

impl Table {
    pub(crate) fn eligibility(&self) -> Eligibility {
        self.operator.wish.eligibility
    }

    pub(crate) fn wish(&self) -> &Wish {
        &self.operator.wish
    }

    /// When what runs is to be ended.
    pub(crate) fn drain_deadline(&self) -> Option<Instant> {
        let deadline = self.operator.wish.drain.as_ref()?.deadline;
        Some(if self.operator.confirmed { deadline } else { deadline.max(self.born + SECOND_THOUGHTS) })
    }

    /// Rings whenever the wish has changed.
    pub(crate) fn wish_bell(&self) -> Arc<Notify> {
        Arc::clone(&self.operator.bell)
    }

    /// Whether the operator has drained the node and nothing is left on it.
    pub(crate) fn is_drained(&self) -> bool {
        self.operator.confirmed
            && self.operator.wish.eligibility == Eligibility::Draining
            && self.running() == 0
    }

    /// What an earlier agent remembered.
    pub(crate) fn recall(&mut self, wish: Wish) {
        self.operator.wish = wish;
    }

    /// Follows an order of a front door, unless it is older than the one that is known. Returns whether it was followed.
    pub(crate) fn set_wish(&mut self, order: Order, now: Instant) -> bool {
        let Order { generation, eligibility, within, reason, by } = order;
        let known = self.operator.wish.generation;
        if generation != 0 && generation < known {
            return false;
        }
        let generation = if generation == 0 { known.saturating_add(1) } else { generation };
        self.operator.confirmed = true;
        let before = self.operator.wish.drain.take();
        let drain = (eligibility == Eligibility::Draining).then(|| match (before, within) {
            // The registry has passed on this very order already.
            (Some(drain), _) if generation == known && drain.named.is_some() => drain,
            // The same call again must not put the deadline off.
            (Some(drain), None) => drain,
            (before, within) => Drain {
                deadline: now + within.unwrap_or(timing::DRAIN_DEADLINE),
                started: before.as_ref().map_or(now, |drain| drain.started),
                reason: reason.or_else(|| before.as_ref()?.reason.clone()),
                by: by.or_else(|| before.as_ref()?.by.clone()),
                named: None,
            },
        });
        self.operator.wish = Wish { generation, eligibility, drain };
        self.wish_changed();
        true
    }

    /// Follows an order that the registry passes on, unless the one that is known has a higher number: a registry that was wiped
    /// or went back to an older state learns it from the agent. Returns whether it changed anything.
    pub(crate) fn learn_wish(
        &mut self,
        generation: u64,
        eligibility: Eligibility,
        drain: Option<(model::Drain, Duration)>,
        now: Instant,
    ) -> bool {
        let mine = &self.operator.wish;
        if generation < mine.generation {
            return false;
        }
        // A higher number is another order, and its deadline is its own.
        let known = mine.drain.as_ref().filter(|_| generation == mine.generation);
        let drain = (eligibility == Eligibility::Draining).then(|| match (known, drain) {
            (Some(known), None) => known.clone(),
            (Some(known), Some((told, _))) if known.named == Some(told.deadline) => known.clone(),
            (_, Some((told, left))) => learned(told, left, now),
            (None, None) => Drain {
                deadline: now + timing::DRAIN_DEADLINE,
                started: now,
                reason: None,
                by: None,
                named: None,
            },
        });
        let wish = Wish { generation, eligibility, drain };
        let changed = wish != *mine;
        let news = !std::mem::replace(&mut self.operator.confirmed, true);
        self.operator.wish = wish;
        if changed || news {
            self.wish_changed();
        }
        changed
    }

    fn wish_changed(&self) {
        self.operator.bell.notify_one();
        // Whoever waits for a node to be drained.
        self.settled.notify_waiters();
    }
}

fn learned(told: model::Drain, left: Duration, now: Instant) -> Drain {
    let age = told.deadline.since(told.started_at).saturating_sub(left);
    Drain {
        deadline: now + left,
        started: now.checked_sub(age).unwrap_or(now),
        reason: told.reason,
        by: told.by,
        named: Some(told.deadline),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::table;
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn told(deadline: u64) -> model::Drain {
        model::Drain {
            deadline: Timestamp::from_millis(deadline),
            reason: Some("kernel".to_owned()),
            by: None,
            started_at: Timestamp::from_millis(deadline - 120_000),
        }
    }

    fn order(generation: u64, eligibility: Eligibility, within: Option<Duration>) -> Order {
        Order { generation, eligibility, within, ..Order::default() }
    }

    fn state(table: &Table) -> (u64, Eligibility) {
        (table.wish().generation, table.eligibility())
    }

    #[test]
    fn the_order_with_the_higher_number_wins_wherever_it_comes_from() {
        use Eligibility::{Cordoned, Draining, Eligible};
        let (mut table, now) = (table(|_| ()), Instant::now());
        assert!(table.set_wish(order(5, Draining, None), now));
        assert!(!table.set_wish(order(4, Eligible, None), now), "an order that was overtaken");
        assert!(!table.learn_wish(4, Eligible, None, now), "a registry that went back");
        assert!(!table.learn_wish(0, Eligible, None, now), "a registry that was wiped");
        assert_eq!(state(&table), (5, Draining));
        assert!(table.learn_wish(7, Cordoned, None, now));
        assert!(!table.learn_wish(7, Cordoned, None, now), "no news");
        assert_eq!(state(&table), (7, Cordoned));
        assert!(table.set_wish(order(0, Eligible, None), now), "a front door that does not number");
        assert_eq!(state(&table), (8, Eligible));
        assert!(table.set_wish(order(9, Draining, None), now));
        assert!(table.learn_wish(9, Draining, Some((told(900_000), MINUTE)), now), "the registry's deadline");
        assert!(!table.learn_wish(9, Draining, Some((told(900_000), MINUTE / 2)), now));
        assert_eq!(state(&table), (9, Draining));
    }

    #[test]
    fn a_deadline_moves_only_when_it_is_told_anew() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let deadline = |table: &Table| table.wish().drain.as_ref().map(|drain| drain.deadline);
        table.set_wish(order(1, Eligibility::Draining, Some(MINUTE)), now);
        table.set_wish(order(2, Eligibility::Draining, None), now + MINUTE / 2);
        assert_eq!(deadline(&table), Some(now + MINUTE), "asked again without a deadline");
        let report = |table: &mut Table, generation, deadline, left, at| {
            table.learn_wish(generation, Eligibility::Draining, Some((told(deadline), left)), at)
        };
        assert!(report(&mut table, 2, 900_000, 2 * MINUTE, now));
        let drain = table.wish().drain.clone().unwrap();
        assert_eq!((drain.deadline, drain.started), (now + 2 * MINUTE, now));
        assert!(!report(&mut table, 2, 900_000, MINUTE, now + MINUTE + Duration::from_millis(7)));
        assert_eq!(deadline(&table), Some(now + 2 * MINUTE), "the same drain, told again");
        table.set_wish(order(2, Eligibility::Draining, Some(2 * MINUTE)), now + MINUTE);
        assert_eq!(deadline(&table), Some(now + 2 * MINUTE), "the call came after the registry's own word");
        assert!(report(&mut table, 3, 910_000, Duration::ZERO, now));
        assert_eq!(deadline(&table), Some(now));
        table.set_wish(order(4, Eligibility::Cordoned, Some(MINUTE)), now);
        assert_eq!(deadline(&table), None, "undone");
    }

    #[test]
    fn a_node_is_drained_when_an_operator_of_this_life_said_so_and_it_is_empty() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        table.set_wish(order(3, Eligibility::Draining, Some(MINUTE)), now);
        let wish = table.wish().clone();
        assert!(table.is_drained());
        let mut next = super::super::tests::table(|_| ());
        next.recall(wish);
        assert_eq!(state(&next), (3, Eligibility::Draining));
        assert!(!next.is_drained(), "the operator may have changed their mind");
        next.operator.wish.drain.as_mut().unwrap().deadline = now;
        assert!(next.drain_deadline() >= Some(now + SECOND_THOUGHTS));
        next.learn_wish(2, Eligibility::Eligible, None, now);
        assert!(!next.is_drained(), "a registry that has forgotten it confirms nothing");
        next.learn_wish(3, Eligibility::Draining, None, now);
        assert!(next.is_drained());
        assert_eq!(next.drain_deadline(), Some(now));
        next.learn_wish(4, Eligibility::Eligible, None, now);
        assert!(!next.is_drained());
    }
}
