//! The changes that the registry has yet to accept, and those that wait for it to accept one.

use std::sync::Arc;

use model::SpawnId;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Table;
use crate::backlog::Pending;
use crate::spawn::SpawnStatus;

impl Table {
    /// Adds a change, in the same step as the state that it reports. Returns its number.
    pub(super) fn publish(&mut self, spawn: SpawnStatus, now: Instant) -> u64 {
        let serial = self.backlog.push(spawn, now);
        self.relay.notify_one();
        serial
    }

    /// The registry has lost what it had accepted after this change: the ends among it are to be reported again.
    pub(crate) fn report_again(&mut self, after: u64, now: Instant) {
        self.backlog.report_again(after, now);
        self.relay.notify_one();
    }

    /// The oldest changes that the registry has not accepted, at most `max`.
    pub(crate) fn backlog(&self, max: usize) -> impl Iterator<Item = &Pending> {
        self.backlog.first(max)
    }

    pub(crate) fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    pub(crate) fn dropped_changes(&self) -> u64 {
        self.backlog.dropped()
    }

    /// The registry has accepted everything up to this change. Returns the spawns whose ends were among it.
    pub(crate) fn accepted(&mut self, serial: u64, now: Instant) -> Vec<SpawnId> {
        self.backlog.accept(serial, now)
    }

    pub(crate) fn wait_for_change(&mut self, serial: u64) -> Option<oneshot::Receiver<()>> {
        let wait = self.backlog.wait_for(serial);
        if wait.is_some() {
            self.hurry.notify_one();
        }
        wait
    }

    /// Notifications for the relay: there is a change, and a caller waits for one to be accepted.
    pub(crate) fn relay_wakeups(&self) -> (Arc<Notify>, Arc<Notify>) {
        (Arc::clone(&self.relay), Arc::clone(&self.hurry))
    }
}
