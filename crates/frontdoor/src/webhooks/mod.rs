//! Webhooks: the events of the registry's stream, posted to receivers as they happen.
//!
//! Reading order: `window` (which event may be sent when) and `set_aside` (which one is given up), both plain data; `delivery` (the task of a webhook),
//! `post` (one attempt), `signature`.
//!
//! ```text
//!  registry's stream ─▶ reader ─▶ window ─▶ up to MAX_SENDING attempts at once ─▶ receiver
//!        ▲                          │ in order for each spawn and each node
//!        └── cursor ◀── 2xx ────────┘ moves over events that were all delivered, or set aside
//! ```
//!
//! Owns: nothing that lasts. The cursor, and who delivers, are in the registry.
//!
//! Invariants:
//!
//! - One front door delivers to a webhook, for as long as it keeps its lease. When the lease is over it stops at once, attempts under way
//!   included, so that the next one does not overtake it.
//! - The cursor moves over an event only once its receiver has answered 2xx. So an event is delivered at least once while the stream holds it, but for one that
//!   the receiver goes on refusing while it takes others: that one is logged, counted, and `webhook.set-aside` is posted in its place.
//! - The events of one spawn, and those of one node, are sent one after the other.
//! - Memory is bounded: no more is read from the stream while the window is full. Requests never wait for webhooks.
//!
//! Failure: an attempt that fails is repeated with growing pauses, without an end while the receiver takes nothing. What the stream has dropped meanwhile is lost; it is
//! logged, counted, and posted as an event of its own (`webhook.gap`).

mod delivery;
mod post;
mod set_aside;
mod signature;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use self::delivery::{Around, deliver};
