//! The live feed: every subscriber hears what happens on the farm, in order, each event once.
//!
//! ```text
//!  registry ──▶ follow ──▶ feed (view · ring · listeners) ──▶ a bounded queue each ──▶ session ──▶ WebSocket
//! ```
//!
//! Reading order: `protocol` (the frames), `narrowed` (topics that are a part of all spawns), `followed` (a spawn and its owner), `view`
//! (the farm as of one event), `ring` (the last events), `listeners` (who is sent what), `claims` (whose spawns are needed), `feed` (all
//! of them under one lock), `hub` (the feed's part of a front door), `follow` (the one task that reads the registry's stream), `encoded`
//! and `snapshots` (a snapshot, encoded once), `resume` (how a subscription begins), `rights` (who may hear what), `accept` (the
//! handshake), `socket` (the WebSocket), `session` (one connection), `writer` (what it sends) and `close` (why it ends).
//!
//! Invariants: while there is no subscriber, nothing runs and nothing is kept. No subscriber waits for another.
//!
//! Failure: a subscriber that is too slow for its queue is disconnected. When events are missing, subscriptions begin anew. While
//! the registry is away, the view serves on.

mod accept;
mod claims;
mod close;
mod encoded;
mod feed;
mod follow;
mod followed;
mod hub;
mod listeners;
mod narrowed;
mod narrowed_index;
mod protocol;
mod resume;
mod rights;
mod ring;
mod session;
mod snapshots;
mod socket;
mod view;
mod writer;

pub(crate) use self::accept::accept;
pub(crate) use self::follow::keep;
pub(crate) use self::hub::Live;
pub(crate) use self::rights::Rights;
pub(crate) use self::session::{Parts, Subscriber};
