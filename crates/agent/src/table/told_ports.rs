//! The ports that relays were told and may be connecting to, for spawns of which they have not been confirmed yet.
//!
//! A spawn may end meanwhile, and the next one have its port: then a relay's connection is there that is none of that spawn's
//! viewer. It is closed as soon as the relay is refused.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// A relay on another machine has closed its connection this long after it was refused.
const CLOSING: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct ToldPorts {
    ports: HashMap<u16, Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Calls of relays that are under way.
    calls: usize,
    /// When the last one of them ended that was not confirmed.
    refused: Option<Instant>,
}

impl ToldPorts {
    /// A relay is told this port.
    pub(super) fn tell(&mut self, port: u16) {
        self.ports.entry(port).or_default().calls += 1;
    }

    /// The relay is connected to its spawn, or will not be: then its connection may be there for a moment.
    pub(super) fn settle(&mut self, port: u16, confirmed: bool, now: Instant) {
        if let Some(told) = self.ports.get_mut(&port) {
            told.calls = told.calls.saturating_sub(1);
            told.refused = if confirmed { told.refused } else { Some(now) };
        }
        self.ports.retain(|_, told| told.calls > 0 || told.is_closing(now));
    }

    /// Whether a connection that was there at `then` may be one of a relay that has no right to it.
    pub(super) fn may_be_connected(&self, port: u16, then: Instant) -> bool {
        self.ports.get(&port).is_some_and(|told| told.calls > 0 || told.is_closing(then))
    }
}

impl Told {
    fn is_closing(&self, now: Instant) -> bool {
        self.refused.is_some_and(|refused| now < refused + CLOSING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_in_doubt_until_the_last_relay_is_settled_and_gone() {
        let (mut told, now) = (ToldPorts::default(), Instant::now());
        assert!(!told.may_be_connected(7, now));
        told.tell(7);
        told.tell(7);
        assert!(told.may_be_connected(7, now) && !told.may_be_connected(8, now));
        told.settle(7, true, now);
        assert!(told.may_be_connected(7, now));
        told.settle(7, true, now);
        assert!(!told.may_be_connected(7, now), "both are viewers now");
        told.tell(7);
        told.settle(7, false, now);
        assert!(told.may_be_connected(7, now + CLOSING / 2));
        assert!(!told.may_be_connected(7, now + CLOSING));
        told.settle(9, false, now + CLOSING);
        assert!(told.ports.is_empty(), "nothing is kept for good");
    }
}
