//! How long a spawn may live. Its driver ends it when the time has come.

use std::time::Duration;

use model::SpawnId;
use tokio::time::Instant;

use super::{Ending, Table};

impl Table {
    /// When it is ended at the latest.
    pub(crate) fn expires(&self, id: SpawnId) -> Option<Instant> {
        self.running.get(&id)?.spawn.expires
    }

    /// Sets how long it may live, counted from its start. The number of the change that reports it, or what has become of it.
    pub(crate) fn set_life(
        &mut self,
        id: SpawnId,
        life: Duration,
        now: Instant,
    ) -> Result<(Instant, u64), Ending> {
        let Some(entry) = self.running.get_mut(&id).filter(|entry| !entry.is_given_up()) else {
            return Err(if self.recent.get(id, now).is_some() { Ending::Ended } else { Ending::Unknown });
        };
        let expires = entry.spawn.facts.started + life;
        entry.spawn.expires = Some(expires);
        entry.notify.notify_one();
        let spawn = entry.spawn.clone();
        Ok((expires, self.publish(spawn, now)))
    }
}
