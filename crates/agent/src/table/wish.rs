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

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wish {
    pub(crate) eligibility: Eligibility,
    /// Present exactly when draining.
    pub(crate) drain: Option<Drain>,
}

/// The wish and where it comes from.
#[derive(Debug, Default)]
pub(super) struct Operator {
    pub(super) wish: Wish,
    /// Rises whenever a front door says what the operator wants.
    version: u64,
    /// Whether it was heard in this life of the agent, rather than remembered from an earlier one.
    confirmed: bool,
    bell: Arc<Notify>,
}

impl Table {
    pub(crate) fn eligibility(&self) -> (Eligibility, u64) {
        (self.operator.wish.eligibility, self.operator.version)
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

    /// What a front door says the operator wants. `within` goes with draining: the time what runs has left.
    pub(crate) fn set_wish(
        &mut self,
        eligibility: Eligibility,
        within: Option<Duration>,
        reason: Option<String>,
        by: Option<String>,
        now: Instant,
    ) {
        self.operator.version += 1;
        self.operator.confirmed = true;
        let before = self.operator.wish.drain.take();
        let drain = (eligibility == Eligibility::Draining).then(|| match (before, within) {
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
        self.operator.wish = Wish { eligibility, drain };
        self.wish_changed();
    }

    /// What the registry says the operator wants; not heeded when a front door has said something since the report went
    /// out, because then the front door knows better. Returns whether it changed anything.
    pub(crate) fn learn_wish(
        &mut self,
        eligibility: Eligibility,
        drain: Option<(model::Drain, Duration)>,
        version: u64,
        now: Instant,
    ) -> bool {
        if version != self.operator.version {
            return false;
        }
        let news = !std::mem::replace(&mut self.operator.confirmed, true);
        let mine = &self.operator.wish;
        let drain = (eligibility == Eligibility::Draining).then(|| match (&mine.drain, drain) {
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
        let wish = Wish { eligibility, drain };
        let changed = wish != *mine;
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

    #[test]
    fn what_a_front_door_says_wins_over_a_report_that_was_on_its_way() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let (_, version) = table.eligibility();
        table.set_wish(Eligibility::Draining, None, None, None, now);
        assert!(!table.learn_wish(Eligibility::Eligible, None, version, now));
        assert_eq!(table.eligibility().0, Eligibility::Draining);
        let (_, version) = table.eligibility();
        assert!(table.learn_wish(Eligibility::Eligible, None, version, now));
        assert!(!table.learn_wish(Eligibility::Eligible, None, version, now), "no news");
    }

    #[test]
    fn a_deadline_moves_only_when_it_is_told_anew() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let deadline = |table: &Table| table.wish().drain.as_ref().map(|drain| drain.deadline);
        table.set_wish(Eligibility::Draining, Some(MINUTE), Some("kernel".to_owned()), None, now);
        table.set_wish(Eligibility::Draining, None, None, None, now + MINUTE / 2);
        assert_eq!(deadline(&table), Some(now + MINUTE), "asked again without a deadline");
        let (_, version) = table.eligibility();
        let report = |table: &mut Table, deadline, left, at| {
            table.learn_wish(Eligibility::Draining, Some((told(deadline), left)), version, at)
        };
        assert!(report(&mut table, 900_000, 2 * MINUTE, now));
        let drain = table.wish().drain.clone().unwrap();
        assert_eq!((drain.deadline, drain.started), (now + 2 * MINUTE, now));
        assert!(!report(&mut table, 900_000, MINUTE, now + MINUTE + Duration::from_millis(7)));
        assert_eq!(deadline(&table), Some(now + 2 * MINUTE), "the same drain, told again");
        assert!(report(&mut table, 910_000, Duration::ZERO, now));
        assert_eq!(deadline(&table), Some(now));
        table.set_wish(Eligibility::Cordoned, Some(MINUTE), None, None, now);
        assert_eq!(deadline(&table), None, "undone");
    }

    #[test]
    fn a_node_is_drained_when_an_operator_of_this_life_said_so_and_it_is_empty() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        table.set_wish(Eligibility::Draining, Some(MINUTE), None, None, now);
        let wish = table.wish().clone();
        assert!(table.is_drained());
        let mut next = super::super::tests::table(|_| ());
        next.recall(wish);
        assert_eq!(next.eligibility().0, Eligibility::Draining);
        assert!(!next.is_drained(), "the operator may have changed their mind");
        next.operator.wish.drain.as_mut().unwrap().deadline = now;
        assert!(next.drain_deadline() >= Some(now + SECOND_THOUGHTS));
        next.learn_wish(Eligibility::Draining, None, 0, now);
        assert!(next.is_drained());
        assert_eq!(next.drain_deadline(), Some(now));
        next.learn_wish(Eligibility::Eligible, None, 0, now);
        assert!(!next.is_drained());
    }
}
