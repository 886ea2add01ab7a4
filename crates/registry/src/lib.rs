//! The registry: where nodes, reservations, the waiting line, spawn records, idempotency records and the event stream
//! are kept. One contract, two backends: Redis, and embedded in the process.
//!
//! Reading order: [`ask`] (what a front door asks), [`report`] (what an agent reports), [`Registry`] (the contract),
//! then the backends `embedded` and `redis`.
//!
//! Who owns what: a reservation belongs to the front door until the agent reports the spawn, from then on the agent owns
//! the spawn and its slot. The registry takes back only what has expired, and only it calls a spawn `lost`.

pub mod ask;
pub mod report;

mod cause;
mod contract;
mod embedded;
mod error;
mod judge;
mod permits;
mod redis;

pub use ask::{
    Claim, Follow, IdempotencyKey, Located, Outcome, Outcomes, Position, Reservation, Reserve, Reserved,
    SpawnFilter, SpawnPage, Standing,
};
pub use contract::Registry;
pub use error::{OpenError, RegistryError, outward};
pub use permits::{Permit, Permits};
pub use redis::{Unprotected, unprotected};
pub use report::{AgentReport, Change, DrainWish, Heartbeat, Identity, Orders, SpawnReport, Wish};
