//! The viewer of a spawn: at most one. A relay reports it, which has shown the spawn's token, or its port where the endpoint is no more
//! than that; or the kernel knows of its connection.
//!
//! ```text
//!            attach                      detach
//!   nobody ──────────▶ a relay's viewer ───────────▶ nobody
//!
//!           connected, or the kernel has a connection            it has none, and no relay a viewer; or the spawn ends
//!   never ─────────────────────────────────────────▶ connected ────────────────────────────────────────────────────▶ gone
//! ```
//!
//! Invariant: a port is good until a viewer has been connected. A server ends with its first viewer, so a second one that shows the
//! same port means a spawn that had the port before.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use model::{SpawnId, SpawnState};
use tokio::time::Instant;
use uuid::Uuid;

use super::entry::RelayViewer;
use super::{Again, Entry, Table};
use crate::procfs;
use crate::sockets::KernelConnection;
use crate::spawn::ViewerTimes;
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
    /// There is no such spawn, it cannot be connected to, or the token is not its own: which of these is not said.
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
    /// The port of a spawn that this viewer, who shows this, may ask for.
    pub(crate) fn port_for(&self, id: SpawnId, shown: &Shown, viewer: Uuid) -> Result<u16, NotAttached> {
        let entry = self.running.get(&id).filter(|entry| entry.takes(shown, false));
        let entry = entry.ok_or(NotAttached::NotFound)?;
        if entry.viewer.is_some_and(|other| other.id != viewer) {
            return Err(NotAttached::Taken);
        }
        Ok(entry.spawn.facts.port)
    }

    /// A relay gets this port, to connect to it for a viewer that is attached.
    pub(crate) fn hand_out_port(&mut self, port: u16) {
        self.unconfirmed_ports.hand_out(port);
    }

    /// The relay that has the port is confirmed, or will not be.
    pub(crate) fn settle_port(&mut self, port: u16, confirmed: bool, now: Instant) {
        self.unconfirmed_ports.settle(port, confirmed, now);
    }

    /// Whether a connection to the port that was there at `then` may be of a relay that is not confirmed: it says nothing of viewers.
    pub(crate) fn may_be_a_relays(&self, port: u16, then: Instant) -> bool {
        self.unconfirmed_ports.may_be_connected(port, then)
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
        if entry.viewer.is_some_and(|other| other.id != viewer) {
            return Err(NotAttached::Taken);
        }
        entry.viewer.get_or_insert(RelayViewer { id: viewer, is_connected: false });
        Ok(entry.spawn.facts.port)
    }

    /// The viewer is connected, if it is still this spawn's, and the spawn's process still the one on this port; whether that is news.
    /// The kernel is asked: the table may not know yet that the process has ended, and another one may have its port already.
    pub(crate) fn confirm(&mut self, id: SpawnId, viewer: Uuid, port: u16, now: Instant) -> Option<bool> {
        let entry = self.running.get(&id);
        let entry = entry.filter(|entry| entry.is_relayed_to(viewer) && entry.spawn.facts.port == port)?;
        let lives = procfs::stat(entry.pid).is_some_and(|process| !process.has_ended());
        lives.then(|| self.connected(id, viewer, now))
    }

    /// The viewer that a relay has is connected. Returns whether that is news.
    pub(crate) fn connected(&mut self, id: SpawnId, viewer: Uuid, now: Instant) -> bool {
        let entry = self.running.get_mut(&id).filter(|entry| entry.is_relayed_to(viewer));
        let Some(entry) = entry else { return false };
        entry.viewer = Some(RelayViewer { id: viewer, is_connected: true });
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
        let ports = ports.chain(self.warm_facts().map(|facts| facts.port));
        let (lowest, highest) =
            ports.fold((u16::MAX, 0), |(low, high), port| (low.min(port), high.max(port)));
        (lowest <= highest).then_some(lowest..=highest)
    }

    /// Takes in what connections there were at `then`. Returns who has come and gone, and asks for the end of spawns whose viewers
    /// have sent nothing for too long.
    pub(crate) fn look(
        &mut self,
        connections: &[KernelConnection],
        then: Instant,
        now: Instant,
    ) -> Vec<Seen> {
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
            let is_there = match entry.viewer {
                // Whatever is connected may be the relay, which has not shown the spawn to anybody yet.
                Some(viewer) => viewer.is_connected,
                // It may be a relay of the spawn that had the port before.
                None if self.unconfirmed_ports.may_be_connected(entry.spawn.facts.port, then) => {
                    entry.spawn.viewing.is_on()
                }
                None => last.is_some(),
            };
            if is_there && entry.spawn.viewing.begin(now) {
                seen.push(Seen::Connected(*id));
            }
            // A viewer that has come since then could not be seen.
            let since = entry.spawn.viewing.connected.is_some_and(|at| at > then);
            if !is_there && !since && entry.spawn.viewing.end(now) {
                seen.push(Seen::Gone(*id));
            }
            if entry.is_idle(now) {
                idle.push((*id, Cause::Idle));
            } else if entry.is_unused(self.initial_use, then) {
                idle.push((*id, Cause::InitialUse));
            }
        }
        for seen in &seen {
            let (Seen::Connected(id) | Seen::Gone(id)) = seen;
            if let Some(spawn) = self.running.get(id).map(|entry| entry.spawn.clone()) {
                self.publish(spawn, now);
            }
        }
        for (id, cause) in idle {
            self.end(id, cause, Again::ChangesNothing, now);
        }
        self.used_warm(|port| heard.contains_key(&port));
        seen
    }

    /// The relay has the viewer no more. Returns whether it was connected: then the kernel knows whether another one is there.
    pub(crate) fn detach(&mut self, id: SpawnId, viewer: Uuid) -> bool {
        let entry = self.running.get_mut(&id).filter(|entry| entry.is_relayed_to(viewer));
        entry.and_then(|entry| entry.viewer.take()).is_some_and(|viewer| viewer.is_connected)
    }
}

impl Entry {
    fn is_relayed_to(&self, viewer: Uuid) -> bool {
        self.viewer.is_some_and(|own| own.id == viewer)
    }

    /// Whether a viewer may be connected to it.
    fn may_be_viewed(&self) -> bool {
        matches!(self.spawn.state, SpawnState::Ready | SpawnState::Suspect)
    }

    /// Whether no viewer had come to it at `then`, although its time for that was over: the server's own clock began when it was started
    /// for the pool.
    fn is_unused(&self, initial_use: Duration, then: Instant) -> bool {
        // As the server rounds it.
        let limit =
            Duration::from_secs(initial_use.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
        let facts = &self.spawn.facts;
        facts.server.is_some()
            && !limit.is_zero()
            && self.viewer.is_none()
            && self.spawn.viewing == ViewerTimes::default()
            && then.saturating_duration_since(facts.started) >= limit
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

    /// Whether a viewer who shows this may connect to it.
    fn takes(&self, shown: &Shown, resumed: bool) -> bool {
        let can_connect = matches!(self.spawn.state, SpawnState::Ready | SpawnState::Suspect);
        can_connect
            && match shown {
                Shown::Token(token) => self.spawn.facts.token.as_ref().is_some_and(|own| own.is(token)),
                Shown::Port(port) => {
                    // One with a viewer is taken; one that had a viewer is not what is asked for.
                    let is_unused =
                        resumed || self.spawn.viewing.connected.is_none() || self.viewer.is_some();
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
    use std::time::Duration;

    use model::RendererType;
    use tokio::time::Instant;

    use super::super::entrance::{Admission, SpawnSpec};
    use super::super::tests::{ask, table};
    use super::*;

    /// A spawn that is ready, with an endpoint of this form: its id, its port and its token.
    fn ready(table: &mut Table, form: &str) -> (SpawnId, u16, String) {
        let ask = SpawnSpec { endpoint_form: Some(form.parse().unwrap()), ..ask(RendererType::Csr) };
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
        assert_eq!(table.port_for(id, &Shown::Port(port + 1), first), Err(NotAttached::NotFound));
        // One that leaves before it is connected costs nothing.
        assert_eq!(table.attach(id, &shown, first, false), Ok(port));
        table.detach(id, first);
        assert_eq!(table.attach(id, &shown, first, false), Ok(port));
        assert_eq!(table.attach(id, &shown, second, false), Err(NotAttached::Taken));
        let now = Instant::now();
        assert_eq!(table.confirm(id, second, port, now), None);
        assert_eq!(table.confirm(id, first, port, now), Some(true));
        assert_eq!(table.attach(id, &shown, second, false), Err(NotAttached::Taken));
        table.detach(id, first);
        assert_eq!(table.port_for(id, &shown, second), Err(NotAttached::NotFound));
        assert_eq!(table.attach(id, &shown, second, false), Err(NotAttached::NotFound));
        assert_eq!(table.attach(id, &shown, first, true), Ok(port), "its call broke, and it is still there");
    }

    #[test]
    fn a_relay_whose_viewer_is_not_connected_yet_has_shown_no_one_the_spawn() {
        let mut table = table(|_| ());
        let (id, port, _) = ready(&mut table, "ws://h:{port}");
        let (shown, viewer) = (Shown::Port(port), Uuid::new_v4());
        let of_the_relay = KernelConnection { port, silent: Some(Duration::ZERO) };
        let now = Instant::now();
        assert_eq!(table.attach(id, &shown, viewer, false), Ok(port));
        assert_eq!(table.look(&[], now, now), []);
        assert_eq!(table.look(&[of_the_relay], now, now), [], "it is not known whose connection this is");
        table.detach(id, viewer);
        assert_eq!(table.look(&[], now, now), []);
        assert_eq!(table.port_for(id, &shown, viewer), Ok(port), "no viewer has been connected");
        assert_eq!(table.attach(id, &shown, viewer, false), Ok(port));
        assert_eq!(table.confirm(id, viewer, port, now), Some(true));
        assert_eq!(table.look(&[], now, now), [], "the relay says that it is there");
        table.detach(id, viewer);
        let later = now + Duration::from_secs(1);
        assert_eq!(table.look(&[], later, later), [Seen::Gone(id)]);
    }

    #[test]
    fn a_relay_of_the_spawn_that_had_the_port_before_makes_no_viewer() {
        let mut table = table(|_| ());
        let (id, port, _) = ready(&mut table, "ws://h:{port}");
        let of_the_relay = KernelConnection { port, silent: Some(Duration::ZERO) };
        let now = Instant::now();
        table.hand_out_port(port);
        assert!(table.may_be_a_relays(port, now));
        assert_eq!(table.look(&[of_the_relay], now, now), []);
        table.settle_port(port, false, now);
        assert_eq!(table.look(&[of_the_relay], now, now), [], "it is closing");
        let later = now + Duration::from_secs(2);
        assert_eq!(table.look(&[of_the_relay], later, later), [Seen::Connected(id)]);
        // Nor does such a relay end a viewer that is there.
        table.hand_out_port(port);
        assert_eq!(table.look(&[], later, later + Duration::from_secs(1)), []);
    }

    #[test]
    fn only_a_viewer_that_sends_nothing_is_idle() {
        let mut table = table(|_| ());
        let limit = Duration::from_secs(10);
        let spec = SpawnSpec { max_idle: Some(limit), ..ask(RendererType::Csr) };
        let (id, start) = (spec.id, Instant::now());
        assert!(matches!(table.admit(spec, start), Admission::New(..)));
        table.launched(id, std::process::id(), start);
        let entry = table.running.get_mut(&id).unwrap();
        entry.spawn.state = SpawnState::Ready;
        let port = entry.spawn.facts.port;
        let look = |table: &mut Table, at: Duration, silent: Option<u64>| {
            let connection = KernelConnection { port, silent: silent.map(Duration::from_secs) };
            table.look(&[connection], start + at, start + at);
            table.running[&id].inbox.end
        };
        table.look(&[], start + limit * 2, start + limit * 2);
        assert_eq!(table.running[&id].inbox.end, None, "no viewer has ever come");
        assert_eq!(look(&mut table, limit * 3, Some(1)), None);
        assert_eq!(look(&mut table, limit * 4, Some(9)), None);
        assert_eq!(look(&mut table, limit * 6, None), None, "the kernel does not say");
        assert_eq!(look(&mut table, limit * 7, Some(10)), Some(Cause::Idle));
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
        assert_eq!(table.confirm(id, viewer, port, Instant::now()), Some(true));
        table.detach(id, viewer);
        assert_eq!(table.port_for(id, &shown, viewer), Ok(port), "a token is the spawn's own for good");
    }
}
