//! What every Hatchery process agrees on: the words, the records that cross a wire, and the rules that need no IO.
//!
//! Reading order: [`id`] (how things are named), [`node`] and [`spawn`] (what there is and which states it goes
//! through), [`demand`] (which node suits whom), [`health`] (which nodes do what they are asked), [`event`] (what happened), [`vendor`] (what the stream cache server's
//! exit codes mean), [`api`] (the JSON of the HTTP contract), [`timing`] (every interval, and what it does to a user),
//! [`text`] (what a text must not do to its reader), [`amount`] (memory as people write it).
//!
//! This crate performs no IO, reads no clock and starts no task.

pub mod amount;
pub mod api;
pub mod demand;
pub mod event;
pub mod health;
pub mod id;
pub mod node;
pub mod spawn;
pub mod text;
pub mod time;
pub mod timing;
pub mod vendor;
mod words;

pub use amount::parse_bytes;
pub use demand::{Demand, NodeKind, Placement};
pub use event::{Event, EventKind};
pub use health::{FarmCause, Health, HealthChange, HealthState, NodeHealth, StartFailure};
pub use id::{AgentEpoch, NameError, NodeId, Owner, RequestId, SpawnId, TicketId};
pub use node::{Availability, Drain, Eligibility, GpuSlots, Load, NodeDescription, NodeRecord};
pub use spawn::{Exit, ExitReason, RendererType, SpawnRecord, SpawnState};
pub use time::Timestamp;
pub use timing::Timing;
