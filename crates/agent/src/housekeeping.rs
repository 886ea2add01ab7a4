//! Recurring work that no event triggers: retries of what the disk refused, old logs, empty control groups, zombies, and the check whether
//! the agent itself was stalled.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::reaper;
use crate::spawn::cgroup::Sweep;

/// How often it is looked whether what could not be written can be.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often old logs are looked for, in rounds of housekeeping.
const SWEEP_EVERY: u32 = 30;
/// Sees to it that it is noticed when the whole agent did not run for a while.
pub(crate) async fn stay_awake(node: Arc<Node>, stop: CancellationToken) {
    let every = (node.table().stall() / 4).max(Duration::from_millis(10));
    loop {
        node.table().awake(Instant::now());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// What is to be done now and then; all of it on the disk's threads.
pub(crate) async fn keep_house(node: Arc<Node>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in (0..SWEEP_EVERY).cycle() {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        node.state.journal.check();
        node.leftovers.check();
        if node.config.inherit_orphans {
            node.disk.logs.post(reaper::reap_strangers).ok();
        }
        if node.desired_unsaved.load(Ordering::Acquire) {
            node.store_desired_soon();
        }
        if round == 0 {
            node.sweep_logs();
            if let Some(groups) = node.groups.clone() {
                node.disk.logs.post(move || groups.sweep(Sweep::Old)).ok();
            }
        }
    }
}
