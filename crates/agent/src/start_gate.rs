//! Starts in order: so many servers start at once, and the others wait for their turn, spawns before warm servers and each kind in its order.
//! Warm servers have at most half of the permits, so that a burst of spawns does not wait for a pool that is filled again.
//!
//! ```text
//!  enter ─▶ waiting ── a permit is free, and nothing stands before it ─▶ StartPermit, until the server is ready or has ended
//!              └── turn_away ─▶ None: nothing more starts here
//! ```
//!
//! Owns the permits. A future of [`StartGate::enter`] that is dropped leaves its place, and a permit that was on its way to it goes to the
//! next one. [`StartGate::force`] goes beyond the limit, for servers of an earlier agent that are starting already.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Starts;
use tokio::sync::oneshot;

/// What is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A spawn, whose caller waits.
    Spawn,
    /// A server that is to be kept warm: only when no spawn waits.
    Warm,
}

#[derive(Debug, Clone)]
pub(crate) struct StartGate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    under_way: usize,
    /// Of these, servers that are to be kept warm.
    warm_under_way: usize,
    spawns: VecDeque<oneshot::Sender<StartPermit>>,
    warm: VecDeque<oneshot::Sender<StartPermit>>,
}

/// The right to start one server. Dropping it lets the next one start.
#[derive(Debug)]
pub(crate) struct StartPermit(StartGate, Turn);

impl Queues {
    fn admits(&self, turn: Turn, limit: usize) -> bool {
        self.under_way < limit && (turn == Turn::Spawn || self.warm_under_way < (limit / 2).max(1))
    }

    fn begin(&mut self, turn: Turn) {
        self.under_way += 1;
        self.warm_under_way += usize::from(turn == Turn::Warm);
    }

    fn end(&mut self, turn: Turn) {
        self.under_way = self.under_way.saturating_sub(1);
        self.warm_under_way = self.warm_under_way.saturating_sub(usize::from(turn == Turn::Warm));
    }

    /// The first one that waits and may start.
    fn next(&mut self, limit: usize) -> Option<(oneshot::Sender<StartPermit>, Turn)> {
        if self.under_way >= limit {
            return None;
        }
        if let Some(place) = self.spawns.pop_front() {
            return Some((place, Turn::Spawn));
        }
        let place = if self.admits(Turn::Warm, limit) { self.warm.pop_front() } else { None };
        Some((place?, Turn::Warm))
    }
}

impl StartGate {
    /// So many start at once.
    pub(crate) fn new(limit: u32) -> Self {
        let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        Self(Arc::new(Shared { limit, queues: Mutex::default() }))
    }

    /// Waits for its turn. `None`: nothing more starts here.
    pub(crate) async fn enter(&self, turn: Turn) -> Option<StartPermit> {
        let waiting = {
            let mut queues = self.queues();
            if queues.admits(turn, self.0.limit) {
                queues.begin(turn);
                return Some(StartPermit(self.clone(), turn));
            }
            let (permit, waiting) = oneshot::channel();
            match turn {
                Turn::Spawn => queues.spawns.push_back(permit),
                Turn::Warm => queues.warm.push_back(permit),
            }
            waiting
        };
        waiting.await.ok()
    }

    /// A permit beyond the limit, for what starts already.
    pub(crate) fn force(&self) -> StartPermit {
        self.queues().begin(Turn::Spawn);
        StartPermit(self.clone(), Turn::Spawn)
    }

    /// Everything that waits is turned away.
    pub(crate) fn turn_away(&self) {
        let mut queues = self.queues();
        queues.spawns.clear();
        queues.warm.clear();
    }

    /// The limit, and how many spawns wait.
    pub(crate) fn depth(&self) -> Starts {
        let queues = self.queues();
        let waiting = queues.spawns.iter().filter(|place| !place.is_closed()).count();
        Starts {
            limit: u32::try_from(self.0.limit).unwrap_or(u32::MAX),
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
        }
    }

    /// Servers that are starting.
    pub(crate) fn under_way(&self) -> usize {
        self.queues().under_way
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a permit back. The next one that waits gets it in the same step, so that no newcomer comes before it.
    fn pass_on(&self, ended: Turn) -> Option<(oneshot::Sender<StartPermit>, Turn)> {
        let mut queues = self.queues();
        queues.end(ended);
        while let Some((place, turn)) = queues.next(self.0.limit) {
            if !place.is_closed() {
                queues.begin(turn);
                return Some((place, turn));
            }
        }
        None
    }
}

impl Drop for StartPermit {
    fn drop(&mut self) {
        if let Some((place, turn)) = self.0.pass_on(self.1) {
            // One that has just left drops it, which goes on from there.
            place.send(Self(self.0.clone(), turn)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn enter(gate: &StartGate, turn: Turn) -> Option<StartPermit> {
        gate.enter(turn).now_or_never().flatten()
    }

    #[test]
    fn starts_come_in_their_order_and_spawns_before_warm_servers() {
        let gate = StartGate::new(1);
        let first = enter(&gate, Turn::Warm).unwrap();
        let mut waiting: Vec<_> = [Turn::Warm, Turn::Spawn, Turn::Spawn, Turn::Warm]
            .into_iter()
            .map(|turn| Box::pin(gate.enter(turn)))
            .collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert_eq!((gate.depth().limit, gate.depth().waiting), (1, 2), "spawns alone are waited for");
        drop(first);
        for expected in [1, 2, 0, 3] {
            for (number, one) in waiting.iter_mut().enumerate().filter(|(number, _)| *number != expected) {
                if let Some(permit) = one.as_mut().now_or_never() {
                    panic!("{number} came before {expected}: {permit:?}");
                }
            }
            let permit = waiting[expected].as_mut().now_or_never().unwrap();
            assert_eq!(gate.under_way(), 1);
            // It is not asked again.
            waiting[expected] = Box::pin(gate.enter(Turn::Warm));
            drop(permit);
        }
        drop(waiting);
        assert_eq!(gate.under_way(), 0);
    }

    #[test]
    fn what_leaves_or_is_turned_away_keeps_no_other_waiting() {
        let gate = StartGate::new(1);
        let first = enter(&gate, Turn::Spawn).unwrap();
        let mut left = Box::pin(gate.enter(Turn::Spawn));
        let mut next = Box::pin(gate.enter(Turn::Spawn));
        assert!(left.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(first);
        // It has the permit already, and has not taken it.
        drop(left);
        let next = next.now_or_never().flatten().unwrap();
        let beyond = gate.force();
        let mut away = Box::pin(gate.enter(Turn::Spawn));
        assert!(away.as_mut().now_or_never().is_none());
        gate.turn_away();
        assert!(away.now_or_never().unwrap().is_none());
        drop((next, beyond));
        assert_eq!(gate.under_way(), 0);
    }

    #[test]
    fn warm_servers_leave_half_of_the_permits_to_spawns_that_may_come() {
        let gate = StartGate::new(4);
        let warm = [Turn::Warm; 2].map(|turn| enter(&gate, turn).unwrap());
        let mut third = Box::pin(gate.enter(Turn::Warm));
        assert!(third.as_mut().now_or_never().is_none());
        let spawns = [Turn::Spawn; 2].map(|turn| enter(&gate, turn).unwrap());
        drop(spawns);
        assert!(third.as_mut().now_or_never().is_none(), "it waits for one of its kind");
        drop(warm);
        assert!(third.now_or_never().is_some());
        assert_eq!(gate.under_way(), 0);
    }

    proptest! {
        #[test]
        fn never_more_start_at_once_and_every_permit_comes_back(
            limit in 1_u32..4, steps in prop::collection::vec(0_u8..4, 1..80),
        ) {
            let gate = StartGate::new(limit);
            let (mut held, mut waiting) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    0 => waiting.push((Turn::Spawn, Box::pin(gate.enter(Turn::Spawn)))),
                    1 => waiting.push((Turn::Warm, Box::pin(gate.enter(Turn::Warm)))),
                    2 => drop(held.pop()),
                    _ => drop(waiting.pop()),
                }
                let mut still = Vec::new();
                for (turn, mut one) in waiting {
                    match one.as_mut().now_or_never() {
                        Some(permit) => held.extend(permit),
                        None => still.push((turn, one)),
                    }
                }
                waiting = still;
                prop_assert_eq!(gate.under_way(), held.len());
                prop_assert!(held.len() <= limit as usize);
                let warm = held.iter().filter(|permit: &&StartPermit| permit.1 == Turn::Warm).count();
                let most = (limit as usize / 2).max(1);
                prop_assert!(warm <= most);
                let only_warm = waiting.iter().all(|(turn, _)| *turn == Turn::Warm);
                prop_assert!(waiting.is_empty() || held.len() == limit as usize || only_warm && warm == most);
            }
            drop((held, waiting));
            prop_assert_eq!(gate.under_way(), 0);
        }
    }
}
