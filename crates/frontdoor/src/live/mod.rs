//! The live feed: every subscriber hears what happens on the farm, in order, each event once.
//!
//! ```text
//!  registry ──▶ follow ──▶ feed (view · ring · listeners) ──▶ a bounded queue each ──▶ session ──▶ WebSocket
//! ```
//!
//! Reading order: `protocol` (the frames), `followed` (a spawn and its owner), `view` (the farm as of one event), `ring` (the last
//! events), `feed` (both of them, and who is sent what), `hub` (the feed's part of a front door), `follow` (the one task that reads
//! the registry's stream), `resume` and `frames` (how a subscription begins), `rights` (who may hear what), `accept` (the handshake),
//! `session` (one connection), `writer` (what it sends) and `close` (why it ends).
//!
//! Invariants: while there is no subscriber, nothing runs and nothing is kept. No subscriber waits for another.
//!
//! Failure: a subscriber that is too slow for its queue is disconnected. When events are missing, subscriptions begin anew. While
//! the registry is away, the view serves on.

mod accept;
mod close;
mod feed;
mod follow;
mod followed;
mod frames;
mod hub;
mod protocol;
mod resume;
mod rights;
mod ring;
mod session;
mod view;
mod writer;

pub(crate) use self::accept::accept;
pub(crate) use self::follow::keep;
pub(crate) use self::hub::Live;
pub(crate) use self::rights::Rights;
pub(crate) use self::session::{Parts, Subscriber};
