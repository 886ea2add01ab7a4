//! One contract, two backends: every test here runs against the embedded registry and against a real Redis, alone, behind
//! TLS and as a cluster; `following` has what only Redis can do to us.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, helpers included")]

mod events;
mod following;
mod idempotency;
mod interleavings;
mod line;
mod moods;
mod nodes;
mod owners;
mod servers;
mod slots;
mod spawns;
mod support;
