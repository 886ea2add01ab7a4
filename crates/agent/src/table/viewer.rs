//! The viewer of a spawn, as relays report it: at most one, and it has shown the spawn's token, or its port where the endpoint is
//! no more than that.
//!
//! ```text
//!            attach                      detach
//!   nobody ──────────▶ one viewer ─────────────────▶ nobody
//! ```
//!
//! Invariant: a port is good until a viewer has been connected. A server ends with its first viewer, so a second one that shows the
//! same port means a spawn that had the port before. An agent that adopted the spawn does not know whether it had a viewer.

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

/// What a viewer knows of the spawn that it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The token in its endpoint.
    Token(String),
    /// The port in its endpoint.
    Port(u16),
}

impl Table {
    /// The port of a spawn that a viewer who shows this may ask for.
    pub(crate) fn port_for(&self, id: SpawnId, shown: &Shown) -> Result<u16, NotAttached> {
        let entry = self.running.get(&id).filter(|entry| entry.takes(shown, false));
        entry.map(|entry| entry.spawn.facts.port).ok_or(NotAttached::NotFound)
    }

    /// Makes it the viewer of the spawn, and gives the spawn's port. Repeating it changes nothing. `resumed`: it was the viewer
    /// before.
    pub(crate) fn attach(
        &mut self,
        id: SpawnId,
        shown: &Shown,
        viewer: Uuid,
        resumed: bool,
    ) -> Result<u16, NotAttached> {
        let entry = self.running.get_mut(&id).filter(|entry| entry.takes(shown, resumed));
        let entry = entry.ok_or(NotAttached::NotFound)?;
        if entry.viewer.is_some_and(|other| other != viewer) {
            return Err(NotAttached::Taken);
        }
        entry.viewer = Some(viewer);
        entry.served |= resumed;
        Ok(entry.spawn.facts.port)
    }

    /// Whether it is still this spawn's viewer, and the spawn's process still the one on this port; it counts as connected then.
    /// The kernel is asked: the table may not know yet that the process has ended, and another one may have its port already.
    pub(crate) fn confirm(&mut self, id: SpawnId, viewer: Uuid, port: u16) -> bool {
        let entry = self.running.get_mut(&id);
        let entry = entry.filter(|entry| entry.viewer == Some(viewer) && entry.spawn.facts.port == port);
        let Some(entry) = entry else { return false };
        let lives = procfs::stat(entry.pid).is_some_and(|process| !process.has_ended());
        entry.served |= lives;
        lives
    }

    /// The viewer has gone.
    pub(crate) fn detach(&mut self, id: SpawnId, viewer: Uuid) {
        if let Some(entry) = self.running.get_mut(&id).filter(|entry| entry.viewer == Some(viewer)) {
            entry.viewer = None;
        }
    }
}

impl Entry {
    /// Whether a viewer who shows this may connect to it.
    fn takes(&self, shown: &Shown, resumed: bool) -> bool {
        let can_connect = matches!(self.spawn.state, SpawnState::Ready | SpawnState::Suspect);
        can_connect
            && match shown {
                Shown::Token(token) => self.spawn.facts.token.as_ref().is_some_and(|own| own.is(token)),
                Shown::Port(port) => {
                    // One with a viewer is taken; one that had a viewer is not what is asked for.
                    let is_unused = resumed || !self.served || self.viewer.is_some();
                    is_unused && *port == self.spawn.facts.port && !self.has_token_in_endpoint()
                }
            }
    }

    fn has_token_in_endpoint(&self) -> bool {
        let facts = &self.spawn.facts;
        facts.token.as_ref().is_some_and(|token| facts.endpoint.contains(token.reveal()))
    }
}

#[cfg(test)]
mod tests {
    use model::RendererType;
    use tokio::time::Instant;

    use super::super::entrance::{Admission, Ask};
    use super::super::tests::{ask, table};
    use super::*;

    /// A spawn that is ready, with an endpoint of this form: its id, its port and its token.
    fn ready(table: &mut Table, form: &str) -> (SpawnId, u16, String) {
        let ask = Ask { endpoint_form: Some(form.parse().unwrap()), ..ask(RendererType::Csr) };
        let (id, now) = (ask.id, Instant::now());
        assert!(matches!(table.admit(ask, now), Admission::New(..)));
        table.launched(id, std::process::id(), now);
        let entry = table.running.get_mut(&id).unwrap();
        entry.spawn.state = SpawnState::Ready;
        let facts = &entry.spawn.facts;
        (id, facts.port, facts.token.as_ref().unwrap().reveal().to_owned())
    }

    #[test]
    fn a_port_is_good_for_one_viewer_where_the_endpoint_is_no_more_than_that() {
        let mut table = table(|_| ());
        let (id, port, _) = ready(&mut table, "ws://h:{port}");
        let (shown, [first, second]) = (Shown::Port(port), [(); 2].map(|()| Uuid::new_v4()));
        assert_eq!(table.port_for(id, &Shown::Port(port + 1)), Err(NotAttached::NotFound));
        // One that leaves before it is connected costs nothing.
        assert_eq!(table.attach(id, &shown, first, false), Ok(port));
        table.detach(id, first);
        assert_eq!(table.attach(id, &shown, first, false), Ok(port));
        assert_eq!(table.attach(id, &shown, second, false), Err(NotAttached::Taken));
        assert!(table.confirm(id, first, port) && !table.confirm(id, second, port));
        assert_eq!(table.attach(id, &shown, second, false), Err(NotAttached::Taken));
        table.detach(id, first);
        assert_eq!(table.port_for(id, &shown), Err(NotAttached::NotFound));
        assert_eq!(table.attach(id, &shown, second, false), Err(NotAttached::NotFound));
        assert_eq!(table.attach(id, &shown, first, true), Ok(port), "its call broke, and it is still there");
    }

    #[test]
    fn where_the_endpoint_has_a_token_the_port_shows_nothing() {
        let mut table = table(|_| ());
        let (id, port, token) = ready(&mut table, "wss://h/s/{node}/{id}/{token}");
        let viewer = Uuid::new_v4();
        for resumed in [false, true] {
            let attached = table.attach(id, &Shown::Port(port), viewer, resumed);
            assert_eq!(attached, Err(NotAttached::NotFound));
        }
        let shown = Shown::Token(token);
        assert_eq!(table.attach(id, &shown, viewer, false), Ok(port));
        assert!(table.confirm(id, viewer, port));
        table.detach(id, viewer);
        assert_eq!(table.port_for(id, &shown), Ok(port), "a token is the spawn's own for good");
    }
}
