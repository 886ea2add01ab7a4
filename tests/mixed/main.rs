//! Processes of this release and of the one before it in one farm: one release back works. `tests/mixed-versions` builds the
//! other release and runs these tests.
//!
//! [`pairs`] has a front door of one release with an agent of the other, [`takeover`] an agent that follows one of the other
//! release, [`upgrade`] a farm that is upgraded, or taken back, process by process under load.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how something is reported")]

mod pairs;
mod takeover;
mod upgrade;
