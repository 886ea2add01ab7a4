//! The viewer of a spawn, as relays report it: at most one, and it has shown the spawn's token.
//!
//! ```text
//!            attach                      detach
//!   nobody ──────────▶ one viewer ─────────────────▶ nobody
//! ```

use model::{SpawnId, SpawnState};
use uuid::Uuid;

use super::{Entry, Table};
use crate::procfs;

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

    /// The viewer has gone.
    pub(crate) fn detach(&mut self, id: SpawnId, viewer: Uuid) {
        if let Some(entry) = self.running.get_mut(&id).filter(|entry| entry.viewer == Some(viewer)) {
            entry.viewer = None;
        }
    }
}

impl Entry {
    /// Whether a viewer with this token may connect to it.
    fn takes(&self, token: &str) -> bool {
        let can_connect = matches!(self.spawn.state, SpawnState::Ready | SpawnState::Suspect);
        can_connect && self.spawn.facts.token.as_ref().is_some_and(|own| own.is(token))
    }
}
