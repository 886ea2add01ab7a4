//! How spawns end: requests for an end, callers that leave, and what is free again afterwards.
//!
//! A request only sets a flag in the inbox and wakes the driver, which alone signals the process.

use model::{Exit, SpawnId, SpawnState};
use tokio::time::Instant;

use super::{Again, Ending, Table};
use crate::spawn::exit::Cause;

impl Table {
    /// It has ended: everything it used is free again.
    ///
    /// Returns the number of the change that reports it.
    pub(crate) fn exited(&mut self, id: SpawnId, exit: Exit, now: Instant) -> u64 {
        let Some(mut entry) = self.running.remove(&id) else { return 0 };
        self.give_back(&entry.spawn.facts);
        if let Some(server) = entry.spawn.facts.server {
            self.warm.claimed.remove(&server);
        }
        entry.spawn.state = SpawnState::Exited;
        entry.spawn.ended = Some(now);
        entry.spawn.viewing.end(now);
        entry.spawn.exit = Some(exit);
        let serial = self.publish(entry.spawn.clone(), now);
        self.tombstones.add(id, now);
        self.recent.add(id, entry, now);
        serial
    }

    /// Asks for its end. Whatever the outcome, it can not be started any more.
    pub(crate) fn end(&mut self, id: SpawnId, cause: Cause, again: Again, now: Instant) -> Ending {
        if let Some(entry) = self.running.get_mut(&id).filter(|entry| !entry.is_given_up()) {
            let begun = entry.inbox.end.is_some() || entry.spawn.state == SpawnState::Stopping;
            match (begun, again) {
                (true, Again::ChangesNothing) => return Ending::Stopping,
                (true, Again::Hurries) => entry.inbox.hurry = true,
                (false, _) => entry.inbox.end = Some(cause),
            }
            entry.notify.notify_one();
            return Ending::Stopping;
        }
        self.tombstones.add(id, now);
        if self.recent.get(id, now).is_some() { Ending::Ended } else { Ending::Unknown }
    }

    /// Asks for its end unless more than one caller waits for it; `false` when they do.
    pub(crate) fn end_unless_shared(&mut self, id: SpawnId, cause: Cause, now: Instant) -> bool {
        if self.running.get(&id).is_some_and(|entry| entry.waiting > 1) {
            return false;
        }
        self.end(id, cause, Again::ChangesNothing, now);
        true
    }

    /// Asks for the end of all.
    pub(crate) fn end_all(&mut self, cause: Cause, again: Again, now: Instant) {
        let all: Vec<SpawnId> = self.running.keys().copied().collect();
        for id in all {
            self.end(id, cause, again, now);
        }
    }

    /// A caller is done waiting. When it was the last and no caller was answered, the spawn is ended: no viewer knows of it.
    pub(crate) fn leave(&mut self, id: SpawnId, answered: bool, now: Instant) {
        let Some(entry) = self.running.get_mut(&id) else { return };
        entry.waiting = entry.waiting.saturating_sub(1);
        entry.answered |= answered;
        if entry.waiting == 0 && !entry.answered {
            self.end(id, Cause::Cancelled, Again::ChangesNothing, now);
        }
    }

    pub(crate) fn end_launching(&mut self, now: Instant) {
        let launching: Vec<SpawnId> = self
            .running
            .values()
            .filter(|e| e.spawn.state == SpawnState::Launching)
            .map(|e| e.spawn.facts.id)
            .collect();
        for id in launching {
            self.end(id, Cause::Cancelled, Again::ChangesNothing, now);
        }
    }

    /// Those that are being ended, or will be.
    pub(crate) fn ending(&self) -> usize {
        self.running
            .values()
            .filter(|e| e.spawn.state == SpawnState::Stopping || e.inbox.end.is_some())
            .count()
    }
}
