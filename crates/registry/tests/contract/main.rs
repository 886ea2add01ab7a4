//! One contract, two backends: every test here runs against the embedded registry and against a real Redis of its own.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, helpers included")]

mod events;
mod idempotency;
mod interleavings;
mod line;
mod nodes;
mod slots;
mod spawns;
mod support;
