//! The viewer of a spawn: at most one. A relay reports it, which has shown the spawn's token; or the kernel knows of its connection.
//!
//! ```text
//!            attach                      detach
//!   nobody ──────────▶ a relay's viewer ───────────▶ nobody
//!
//!           connected, or the kernel has a connection            it has none, and no relay a viewer; or the spawn ends
//!   never ─────────────────────────────────────────▶ connected ────────────────────────────────────────────────────▶ gone
//! ```

use std::collections::HashMap;
use std::ops::RangeInclusive;

use model::{SpawnId, SpawnState};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Again, Entry, Table};
use crate::procfs;
use crate::sockets::Connection;
use crate::spawn::exit::Cause;

/// A viewer has come to a spawn, or gone from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Connected(SpawnId),
    Gone(SpawnId),
}

/// Why a viewer may not connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAttached {
    /// There is no such spawn, it cannot be connected to, or the token is not its own: which of these is nobody's business.
    NotFound,
    /// It has a viewer.
    Taken,
}

impl Table {
    /// The port of a spawn that a viewer with this token may ask for.
    pub(crate) fn port_for(&self, id: SpawnId, token: &str) -> Result<u16, NotAttached> {
        let entry = self.running.get(&id).filter(|entry| entry.takes(token)).ok_or(NotAttached::NotFound)?;
        Ok(entry.spawn.facts.port)
    }

    /// Makes it the viewer of the spawn, and gives the spawn's port. Repeating it changes nothing.
    pub(crate) fn attach(&mut self, id: SpawnId, token: &str, viewer: Uuid) -> Result<u16, NotAttached> {
        let entry = self.running.get_mut(&id).filter(|entry| entry.takes(token));
        let entry = entry.ok_or(NotAttached::NotFound)?;
        if entry.viewer.is_some_and(|other| other != viewer) {
            return Err(NotAttached::Taken);
        }
        entry.viewer = Some(viewer);
        Ok(entry.spawn.facts.port)
    }

    /// Whether it is still this spawn's viewer, and the spawn's process still the one on this port. The kernel is asked: the
    /// table may not know yet that the process has ended, and another one may have its port already.
    pub(crate) fn is_attached(&self, id: SpawnId, viewer: Uuid, port: u16) -> bool {
        let entry = self.running.get(&id);
        let entry = entry.filter(|entry| entry.viewer == Some(viewer) && entry.spawn.facts.port == port);
        entry.is_some_and(|entry| procfs::stat(entry.pid).is_some_and(|process| !process.has_ended()))
    }

    /// A viewer is connected. Returns whether that is news.
    pub(crate) fn connected(&mut self, id: SpawnId, now: Instant) -> bool {
        let Some(entry) = self.running.get_mut(&id) else { return false };
        entry.active = Some(now);
        let news = entry.spawn.viewing.begin(now);
        if news {
            let spawn = entry.spawn.clone();
            self.publish(spawn, now);
        }
        news
    }

    /// The ports on which viewers may be: from the lowest to the highest. `None` when there are none.
    pub(crate) fn viewers_ports(&self) -> Option<RangeInclusive<u16>> {
        let ports =
            self.running.values().filter(|entry| entry.may_be_viewed()).map(|entry| entry.spawn.facts.port);
        let (lowest, highest) =
            ports.fold((u16::MAX, 0), |(low, high), port| (low.min(port), high.max(port)));
        (lowest <= highest).then_some(lowest..=highest)
    }

    /// Takes in what connections there were at `then`. Returns who has come and gone, and asks for the end of spawns whose viewers
    /// have sent nothing for too long.
    pub(crate) fn look(&mut self, connections: &[Connection], then: Instant, now: Instant) -> Vec<Seen> {
        let (mut seen, mut idle) = (Vec::new(), Vec::new());
        // When data last came to each port that has a connection. Where the kernel does not say, it may have come just now.
        let mut heard: HashMap<u16, Option<Instant>> = HashMap::new();
        for connection in connections {
            let at = connection.silent.map_or(Some(then), |ago| then.checked_sub(ago));
            let last = heard.entry(connection.port).or_default();
            *last = at.max(*last);
        }
        for (id, entry) in &mut self.running {
            if !entry.may_be_viewed() {
                continue;
            }
            let last = heard.get(&entry.spawn.facts.port);
            entry.active = entry.active.max(last.copied().flatten());
            let is_there = last.is_some() || entry.viewer.is_some();
            if is_there && entry.spawn.viewing.begin(now) {
                seen.push(Seen::Connected(*id));
            }
            // A viewer that has come since then could not be seen.
            let since = entry.spawn.viewing.connected.is_some_and(|at| at > then);
            if !is_there && !since && entry.spawn.viewing.end(now) {
                seen.push(Seen::Gone(*id));
            }
            if entry.is_idle(now) {
                idle.push(*id);
            }
        }
        for seen in &seen {
            let (Seen::Connected(id) | Seen::Gone(id)) = seen;
            if let Some(spawn) = self.running.get(id).map(|entry| entry.spawn.clone()) {
                self.publish(spawn, now);
            }
        }
        for id in idle {
            self.end(id, Cause::Idle, Again::ChangesNothing, now);
        }
        seen
    }

    /// The viewer has gone, as far as its relay knows. The kernel knows whether another one is there.
    pub(crate) fn detach(&mut self, id: SpawnId, viewer: Uuid) {
        if let Some(entry) = self.running.get_mut(&id).filter(|entry| entry.viewer == Some(viewer)) {
            entry.viewer = None;
        }
    }
}

impl Entry {
    /// Whether a viewer may be connected to it.
    fn may_be_viewed(&self) -> bool {
        matches!(self.spawn.state, SpawnState::Ready | SpawnState::Suspect)
    }

    /// Whether its viewer has sent nothing for too long. One that never had a viewer ends by its initial use.
    fn is_idle(&self, now: Instant) -> bool {
        let viewing = self.spawn.viewing;
        let last = viewing
            .connected
            .max(viewing.disconnected)
            .max(self.active.filter(|_| viewing.connected.is_some()));
        let silent = last.map(|last| now.saturating_duration_since(last));
        self.spawn.facts.max_idle.zip(silent).is_some_and(|(most, silent)| silent >= most)
    }

    /// Whether a viewer with this token may connect to it.
    fn takes(&self, token: &str) -> bool {
        let can_connect = matches!(self.spawn.state, SpawnState::Ready | SpawnState::Suspect);
        can_connect && self.spawn.facts.token.as_ref().is_some_and(|own| own.is(token))
    }
}
