//! The registry as a front door meets it, and how it does without.
//!
//! Reading order: `circuit` (every call, behind a circuit breaker), `snapshot` and `refresher` (the farm as it was when the registry
//! was last seen), `desired_state` (what operators want, in case the registry forgets it), `placed` (the outcome of looking for a
//! slot), `cleanup` (calls that outlive their request), `follower` (wake-ups from the registry), `sweeper` (what time asks for), `tally`
//! (what the registry cannot count by itself).

pub(crate) mod circuit;
pub(crate) mod cleanup;
pub(crate) mod desired_state;
pub(crate) mod follower;
pub(crate) mod placed;
pub(crate) mod refresher;
pub(crate) mod snapshot;
pub(crate) mod sweeper;
pub(crate) mod tally;
