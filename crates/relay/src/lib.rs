//! Relays one viewer's WebSocket connection after its handshake: every byte is passed on as it came, in both directions, and
//! nothing is understood of it but where frames begin and end.
//!
//! That much is needed for one thing: the relay pings the viewer, between whole frames, and keeps the answers to itself. Browsers
//! answer pings by themselves, so a viewer without traffic survives load balancers that cut idle connections, and one that
//! vanished without a word is noticed through any chain of proxies.
//!
//! - `frames`: where frames begin and end, in bytes that come in pieces.
//! - `pings`: the pings, and the filter that takes their answers out of what the viewer sends.
//! - `passage`: the two directions, [`relay`].
//!
//! Invariants: what is read is written before more is read, so a slow reader slows its writer down and nothing piles up here;
//! bytes are neither lost, added (but for pings, toward the viewer) nor reordered. Failure: whatever ends one direction ends the
//! other one a moment later.

mod frames;
mod passage;
mod pings;

pub use passage::{Ended, Passed, Reason, Settings, relay};
