//! What every Hatchery process agrees on: the words, the records that cross a wire, and the rules that need no IO.
//!
//! Reading order:
//!
//! | module | holds |
//! | --- | --- |
//! | [`id`] | identifiers and names, with their parsers |
//! | [`node`], [`spawn`] | what there is, and the states that it goes through |
//! | [`supply`] | how soon a node can give a spawn |
//! | [`demand`] | which nodes suit a request |
//! | [`health`] | the state machine that learns from failed starts |
//! | [`tags`] | what callers write on their spawns |
//! | [`origin`], [`trace`] | the request that a spawn comes from, and its trace |
//! | [`event`] | what happened, in the registry's order |
//! | [`audit`], [`minute`] | operators' orders, and counts of each minute |
//! | [`api`] | the JSON of the HTTP contract |
//! | [`timing`] | every interval, and its effect on a user |
//! | [`finding`] | what an examination of a set-up found |
//! | [`vendor`] | the stream cache server's exit codes |
//! | [`time`], [`amount`], [`text`] | points in time, amounts of memory, deceptive characters |
//!
//! Invariants: types whose values are checked can only be made by their parsers, so a function that takes a [`NodeId`] checks
//! nothing. No function performs IO or starts a task. Only [`Timestamp::now`] and the `mint` functions read a clock.

pub mod amount;
pub mod api;
pub mod audit;
pub mod demand;
pub mod event;
pub mod finding;
pub mod health;
pub mod id;
pub mod jitter;
pub mod minute;
pub mod node;
pub mod origin;
pub mod spawn;
pub mod supply;
pub mod tags;
pub mod text;
pub mod time;
pub mod timing;
pub mod trace;
pub mod vendor;
mod words;

pub use amount::parse_bytes;
pub use audit::{Audit, AuditOutcome, OrderKind};
pub use demand::{Demand, Misfit, NodeKind, Placement};
pub use event::{Event, EventKind};
pub use finding::{Finding, Level};
pub use health::{Concern, FarmCause, Health, HealthChange, HealthState, NodeHealth, StartFailure};
pub use id::{AgentEpoch, NameError, NodeId, Owner, RequestId, SpawnId, TicketId};
pub use jitter::{jittered, spread};
pub use minute::{FarmSlots, Minute};
pub use node::{
    Availability, Drain, Eligibility, GpuSlots, Heard, Load, NodeDescription, NodeRecord,
    viewers_pass_in_the_clear,
};
pub use origin::{Origin, Phases};
pub use spawn::{Exit, ExitReason, RendererType, SpawnRecord, SpawnState, ViewerPresence};
pub use supply::{Starts, Supply, WarmCount};
pub use tags::Tag;
pub use time::Timestamp;
pub use timing::Timing;
pub use trace::{TraceId, TraceIdError};
