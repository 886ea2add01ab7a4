//! What spawned servers report, and since when their silence counts.
//!
//! A silence is held against a spawn only where the agent could have heard it. Two things move the moment since which silence counts
//! (`silence_since`): the agent itself did not run for a while, or the liveliness port did not take connections.

use std::time::Duration;

use model::{SpawnId, SpawnState};
use tokio::time::Instant;

use super::{Liveliness, Table};
use crate::users::user::Ids;

/// A flood that pauses for less is the same one.
const SAME_FLOOD: Duration = Duration::from_secs(10);

impl Table {
    /// Takes in what a server says of itself, by the id that it was started with; `false` when it is not one of ours.
    pub(crate) fn heard(&mut self, id: SpawnId, what: Liveliness, now: Instant) -> bool {
        let id = self.spawn_of_server(id);
        let Some(entry) = self.running.get_mut(&id).filter(|entry| !entry.is_given_up()) else {
            return self.heard_warm(id, what, now);
        };
        entry.spawn.heard = Some(now);
        match what {
            Liveliness::Ready => entry.inbox.ready = true,
            Liveliness::Disconnect => entry.inbox.disconnect = true,
            // It may have said `ready` while no agent listened, or could not say it, and it says it only once.
            Liveliness::Ping
                if entry.spawn.state == SpawnState::Launching
                    && (entry.adopted || self.deafened.is_some_and(|at| at >= entry.spawn.facts.started)) =>
            {
                entry.inbox.ready = true;
            }
            // Its driver looks when the time comes, unless it waits for this very ping.
            Liveliness::Ping if entry.spawn.state != SpawnState::Suspect => return true,
            Liveliness::Ping => {}
        }
        entry.notify.notify_one();
        true
    }

    /// The user that this spawn's server runs as, where it is not the agent's own; `None` when a report with this secret is not its.
    pub(crate) fn reporter(&self, id: SpawnId, secret: Option<&str>) -> Option<Option<Ids>> {
        let spawn = self.running.get(&self.spawn_of_server(id)).filter(|entry| !entry.is_given_up());
        let facts = spawn.map(|entry| &entry.spawn.facts);
        // A server that a spawn has got reports by the id that it was started with.
        let facts = facts.filter(|facts| facts.process_id() == id);
        let facts = facts.or_else(|| Some(&self.warm.kept.get(&id)?.facts));
        let facts = facts?;
        let is_its = match (&facts.secret, secret) {
            (Some(own), Some(given)) => own.is(given),
            // An earlier release started it.
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        is_its.then_some(facts.user)
    }

    /// When it was last heard of.
    pub(crate) fn last_heard(&self, id: SpawnId) -> Option<Instant> {
        self.running.get(&id)?.spawn.heard
    }

    /// Notes that the agent runs at this moment, and says since when silence counts: when it did not run for a while,
    /// what spawns said meanwhile is there but not read yet.
    pub(crate) fn awake(&mut self, now: Instant) -> Instant {
        let gap = now.saturating_duration_since(self.last_awake);
        if gap > self.stall {
            tracing::warn!(
                gap_ms = gap.as_millis(),
                "the agent did not run for a while, silence is counted anew"
            );
            self.silence_since = now;
        }
        self.last_awake = self.last_awake.max(now);
        self.silence_since
    }

    /// Reports of spawns may not arrive at this moment: silence is counted anew from now on, and a start that takes too long is not
    /// to blame for it. Returns whether that is news.
    pub(crate) fn deafened(&mut self, now: Instant) -> bool {
        let last = self.deafened.replace(now);
        self.silence_since = self.silence_since.max(now);
        last.is_none_or(|last| now.saturating_duration_since(last) > SAME_FLOOD)
    }

    /// Whether reports were kept from arriving since then.
    pub(crate) fn was_deaf_since(&self, since: Instant) -> bool {
        self.deafened.is_some_and(|at| at >= since)
    }

    /// Without a sign of life of its own for longer than this, the agent itself has been silent.
    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }
}
