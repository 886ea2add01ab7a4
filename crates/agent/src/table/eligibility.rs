//! The desired state of the node, as the rest of the agent sees it and changes it.

use std::sync::Arc;
use std::time::Duration;

use model::Eligibility;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Table;
use crate::desired_state::{DesiredState, EligibilityOrder};

/// While only an earlier agent's file asks for a drain, no spawn is ended before the agent is this old: an operator may have undone the
/// drain while no agent listened, as the registry's first answer shows.
const UNCONFIRMED_GRACE: Duration = Duration::from_secs(10);

impl Table {
    pub(crate) fn eligibility(&self) -> Eligibility {
        self.operator.desired.eligibility
    }

    pub(crate) fn desired(&self) -> &DesiredState {
        &self.operator.desired
    }

    /// When the drain ends what still runs.
    pub(crate) fn drain_deadline(&self) -> Option<Instant> {
        let deadline = self.operator.desired.drain.as_ref()?.deadline;
        Some(if self.operator.confirmed { deadline } else { deadline.max(self.born + UNCONFIRMED_GRACE) })
    }

    /// Notified whenever the desired state has changed or was confirmed.
    pub(crate) fn desired_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.desired_changed)
    }

    /// Whether the operator has drained the node and no spawn is left on it.
    pub(crate) fn is_drained(&self) -> bool {
        self.operator.confirmed
            && self.operator.desired.eligibility == Eligibility::Draining
            && self.running() == 0
            && self.warm_servers() == 0
    }

    /// Takes up what an earlier agent stored, unconfirmed.
    pub(crate) fn recall(&mut self, desired: DesiredState) {
        self.operator.desired = desired;
    }

    /// Applies an order of a front door. Returns whether it was applied; an older one than the known one is not.
    pub(crate) fn order(&mut self, order: EligibilityOrder, now: Instant) -> bool {
        let applied = self.operator.order(order, now);
        if applied {
            self.notify_desired();
        }
        applied
    }

    /// Applies the desired state as the registry has it; `drain` comes with the time that is left. Returns whether it changed anything.
    pub(crate) fn learn_desired(
        &mut self,
        generation: u64,
        eligibility: Eligibility,
        drain: Option<(model::Drain, Duration)>,
        now: Instant,
    ) -> bool {
        let learned = self.operator.learn(generation, eligibility, drain, now);
        if learned.changed || learned.confirmed {
            self.notify_desired();
        }
        learned.changed
    }

    fn notify_desired(&self) {
        self.desired_changed.notify_one();
        self.warm.changed.notify_one();
        // For those that wait for the node to be drained.
        self.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use model::Timestamp;

    use super::super::tests::table;
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ordered(deadline: u64) -> model::Drain {
        model::Drain {
            deadline: Timestamp::from_millis(deadline),
            reason: Some("kernel".to_owned()),
            by: None,
            started_at: Timestamp::from_millis(deadline - 120_000),
        }
    }

    fn order(generation: u64, eligibility: Eligibility, within: Option<Duration>) -> EligibilityOrder {
        EligibilityOrder { generation, eligibility, within, ..EligibilityOrder::default() }
    }

    fn state(table: &Table) -> (u64, Eligibility) {
        (table.desired().generation, table.eligibility())
    }

    #[test]
    fn the_order_with_the_higher_number_wins_wherever_it_comes_from() {
        use Eligibility::{Cordoned, Draining, Eligible};
        let (mut table, now) = (table(|_| ()), Instant::now());
        assert!(table.order(order(5, Draining, None), now));
        assert!(!table.order(order(4, Eligible, None), now), "an order that was overtaken");
        assert!(!table.learn_desired(4, Eligible, None, now), "a registry that went back");
        assert!(!table.learn_desired(0, Eligible, None, now), "a registry that was wiped");
        assert_eq!(state(&table), (5, Draining));
        assert!(table.learn_desired(7, Cordoned, None, now));
        assert!(!table.learn_desired(7, Cordoned, None, now), "no news");
        assert_eq!(state(&table), (7, Cordoned));
        assert!(table.order(order(0, Eligible, None), now), "a front door that does not number");
        assert_eq!(state(&table), (8, Eligible));
        assert!(table.order(order(9, Draining, None), now));
        assert!(
            table.learn_desired(9, Draining, Some((ordered(900_000), MINUTE)), now),
            "the registry's deadline"
        );
        assert!(!table.learn_desired(9, Draining, Some((ordered(900_000), MINUTE / 2)), now));
        assert_eq!(state(&table), (9, Draining));
    }

    #[test]
    fn a_deadline_moves_only_with_a_new_order() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let deadline = |table: &Table| table.desired().drain.as_ref().map(|drain| drain.deadline);
        table.order(order(1, Eligibility::Draining, Some(MINUTE)), now);
        table.order(order(2, Eligibility::Draining, None), now + MINUTE / 2);
        assert_eq!(deadline(&table), Some(now + MINUTE), "asked again without a deadline");
        let report = |table: &mut Table, generation, deadline, left, at| {
            table.learn_desired(generation, Eligibility::Draining, Some((ordered(deadline), left)), at)
        };
        assert!(report(&mut table, 2, 900_000, 2 * MINUTE, now));
        let drain = table.desired().drain.clone().unwrap();
        assert_eq!((drain.deadline, drain.started), (now + 2 * MINUTE, now));
        assert!(!report(&mut table, 2, 900_000, MINUTE, now + MINUTE + Duration::from_millis(7)));
        assert_eq!(deadline(&table), Some(now + 2 * MINUTE), "the same drain, ordered again");
        table.order(order(2, Eligibility::Draining, Some(2 * MINUTE)), now + MINUTE);
        assert_eq!(deadline(&table), Some(now + 2 * MINUTE), "the call came after the registry's own word");
        assert!(report(&mut table, 3, 910_000, Duration::ZERO, now));
        assert_eq!(deadline(&table), Some(now));
        table.order(order(4, Eligibility::Cordoned, Some(MINUTE)), now);
        assert_eq!(deadline(&table), None, "undone");
    }

    #[test]
    fn a_node_is_drained_when_an_operator_of_this_life_said_so_and_it_is_empty() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        table.order(order(3, Eligibility::Draining, Some(MINUTE)), now);
        let desired = table.desired().clone();
        assert!(table.is_drained());
        let mut next = super::super::tests::table(|_| ());
        next.recall(desired);
        assert_eq!(state(&next), (3, Eligibility::Draining));
        assert!(!next.is_drained(), "the operator may have changed their mind");
        next.operator.desired.drain.as_mut().unwrap().deadline = now;
        assert!(next.drain_deadline() >= Some(now + UNCONFIRMED_GRACE));
        next.learn_desired(2, Eligibility::Eligible, None, now);
        assert!(!next.is_drained(), "a registry that has forgotten it confirms nothing");
        next.learn_desired(3, Eligibility::Draining, None, now);
        assert!(next.is_drained());
        assert_eq!(next.drain_deadline(), Some(now));
        next.learn_desired(4, Eligibility::Eligible, None, now);
        assert!(!next.is_drained());
    }
}
