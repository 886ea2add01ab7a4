//! One contract, two backends: every test here runs against the embedded registry and against a real Redis of its own.

mod events;
mod idempotency;
mod interleavings;
mod line;
mod nodes;
mod slots;
mod spawns;
mod support;
