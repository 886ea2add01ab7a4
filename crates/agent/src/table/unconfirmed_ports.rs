//! The ports that the agent handed out to relays which may be connecting to them, and has not confirmed yet.
//!
//! A spawn may end meanwhile, and the next one have its port: then a relay's connection is there that is none of that spawn's
//! viewer. It is closed as soon as the relay is refused.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// A relay on another machine has closed its connection this long after it was refused.
const CLOSING: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct UnconfirmedPorts {
    ports: HashMap<u16, Unconfirmed>,
}

#[derive(Debug, Default)]
struct Unconfirmed {
    /// Calls of relays that are under way.
    calls: usize,
    /// When the last one of them ended that was not confirmed.
    refused: Option<Instant>,
}

impl UnconfirmedPorts {
    /// A relay gets this port.
    pub(super) fn hand_out(&mut self, port: u16) {
        self.ports.entry(port).or_default().calls += 1;
    }

    /// The relay is connected to its spawn, or will not be: then its connection may be there for a moment.
    pub(super) fn settle(&mut self, port: u16, confirmed: bool, now: Instant) {
        if let Some(of_port) = self.ports.get_mut(&port) {
            of_port.calls = of_port.calls.saturating_sub(1);
            of_port.refused = if confirmed { of_port.refused } else { Some(now) };
        }
        self.ports.retain(|_, of_port| of_port.calls > 0 || of_port.is_closing(now));
    }

    /// Whether a connection that was there at `then` may be one of a relay that has no right to it.
    pub(super) fn may_be_connected(&self, port: u16, then: Instant) -> bool {
        self.ports.get(&port).is_some_and(|of_port| of_port.calls > 0 || of_port.is_closing(then))
    }
}

impl Unconfirmed {
    fn is_closing(&self, now: Instant) -> bool {
        self.refused.is_some_and(|refused| now < refused + CLOSING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_in_doubt_until_the_last_relay_is_settled_and_gone() {
        let (mut ports, now) = (UnconfirmedPorts::default(), Instant::now());
        assert!(!ports.may_be_connected(7, now));
        ports.hand_out(7);
        ports.hand_out(7);
        assert!(ports.may_be_connected(7, now) && !ports.may_be_connected(8, now));
        ports.settle(7, true, now);
        assert!(ports.may_be_connected(7, now));
        ports.settle(7, true, now);
        assert!(!ports.may_be_connected(7, now), "both are viewers now");
        ports.hand_out(7);
        ports.settle(7, false, now);
        assert!(ports.may_be_connected(7, now + CLOSING / 2));
        assert!(!ports.may_be_connected(7, now + CLOSING));
        ports.settle(9, false, now + CLOSING);
        assert!(ports.ports.is_empty(), "nothing is kept for good");
    }
}
