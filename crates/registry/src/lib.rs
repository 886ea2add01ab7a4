//! The registry: nodes, reservations, the waiting line, spawn records, idempotency records and the event stream.
//!
//! One contract, two backends: `redis`, which any number of front doors and agents share, and `embedded`, for a farm in one
//! process. `tests/contract` runs against both.
//!
//! Reading order: [`ask`] (what a front door asks), [`report`] (what an agent reports), [`Registry`] (the contract),
//! `embedded` (the rules as plain Rust), then `redis` (the same rules as Lua scripts, file by file).
//!
//! # Who owns what
//!
//! ```text
//!  a slot    free ── reserve ──▶ reserved ── the agent reports ──▶ running ── it ends ──▶ free
//!                                 │    └ abandon ▶ abandoned ── the agent has forgotten it ▲ ▲
//!                                 └──────────────── release, or expiry ────────────────────┘
//!
//!  a record  (none) ── first report ──▶ launching … ready … stopping ──▶ exited
//!                                            └── node down ──▶ lost ──┴─ the node is back
//!
//!  a node    up ── silent for `stale` ──▶ stale ── silent for `down` ──▶ down ── `forget` ──▶ (none)
//!            └◀────────────── heartbeat ────┴◀──────────────────────────┘
//!
//!  an order  eligible ⇄ cordoned ⇄ draining: the higher number wins, from an operator, an agent or a front door
//!
//!  a drain   draining ── the last slot comes back, or the node goes down ──▶ drained (an event; the node stays closed)
//!               └ at the deadline the agent ends what still runs; another order undoes the drain at any time
//! ```
//!
//! - A reservation belongs to the front door until the agent reports the spawn. From then on the agent owns the spawn and
//!   its slot.
//! - The registry takes back only what has expired. It alone calls a spawn `lost`, and a node `stale` or `down`.
//! - A heartbeat with a list has everything that lives on its node. The registry believes that list before its own memory, so one
//!   such heartbeat repairs a wiped registry. While both agree, a [`Keepalive`] stands for the list.
//!
//! # Time
//!
//! Only the registry's clock counts. Agents report ages; deadlines travel as the time that is left.
//!
//! # Failure
//!
//! Every call is one atomic step and is bounded in time. A failed call may have happened or not, see [`RegistryError`]. All
//! calls may be repeated but [`Registry::learn`] and [`Registry::permit`], which count twice then.
//!
//! # Example
//!
//! ```
//! use model::{Demand, NodeDescription, NodeKind, Placement, RendererType, SpawnId, Timing};
//! use registry::{AgentReport, Heartbeat, AgentIdentity, Registry, Reserve, Reserved};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::embedded(Timing::FARM);
//!
//! // An agent reports its node.
//! let description = NodeDescription {
//!     advertise: "http://node-a:7070".into(),
//!     endpoint: "ws://node-a:{port}".into(),
//!     kind: NodeKind { pool: "default".into(), labels: [].into(), dedicated: false },
//!     slots: 1,
//!     gpus: 0,
//!     gpu_slots: 0,
//!     csr: true,
//!     ssr: false,
//!     version: "0.1.0".into(),
//!     viewer_relay: None,
//! };
//! let report = AgentReport {
//!     node: "node-a".parse()?,
//!     epoch: model::AgentEpoch::mint(),
//!     takeover: true,
//!     identity: AgentIdentity::default(),
//!     accepted: 0,
//!     agreement: None,
//!     changes: Vec::new(),
//!     heartbeat: Some(Heartbeat::new(description, Vec::new())),
//! };
//! registry.report(&report).await?;
//!
//! // A front door reserves the only slot, finds that the node is full, and releases it.
//! let request = Reserve {
//!     spawn: SpawnId::mint(),
//!     demand: Demand { renderer: RendererType::Csr, pool: None, labels: [].into() },
//!     placement: Placement::Spread,
//!     avoid: Vec::new(),
//!     place: None,
//!     number: None,
//!     probed: false,
//!     owner: None,
//!     most: None,
//! };
//! let Reserved::Slot(slot) = registry.reserve(&request).await? else { panic!("no slot") };
//! assert_eq!(slot.node.as_str(), "node-a");
//! let another = Reserve { spawn: SpawnId::mint(), ..request };
//! assert_eq!(registry.reserve(&another).await?, Reserved::Full);
//! registry.release(&slot.node, slot.spawn).await?;
//! assert!(matches!(registry.reserve(&another).await?, Reserved::Slot(_)));
//! # Ok(())
//! # }
//! ```

pub mod agreement;
pub mod ask;
pub mod keepalive;
pub mod pings;
pub mod report;
pub mod verdict;
mod viewing;

mod cause;
mod contract;
mod delivery;
mod distant;
mod embedded;
mod error;
mod judge;
mod node_list;
mod outage;
mod permits;
mod place_among_ends;
mod redis;
mod waiting;

pub use agreement::{Agreement, Difference, Digest, HeardReport};
pub use ask::{
    AuditCursor, AuditFilter, AuditPage, Claim, Counts, Follow, Forgotten, IdempotencyKey, Located, Outcome,
    Outcomes, Position, Reservation, Reserve, Reserved, Restored, SameEverywhere, SpawnFilter, SpawnPage,
    Standing,
};
pub use contract::Registry;
pub use delivery::{Cursor, Delivery};
pub use distant::{Transport, Way};
pub use embedded::RegistryCopy;
pub use error::{OpenError, RegistryError};
pub use keepalive::{Check, Keepalive};
pub use node_list::{NodeFilter, NodePage};
pub use outage::{Outage, OutageKind};
pub use permits::{Permit, Permits};
pub use pings::WantedPings;
pub use redis::{Unprotected, examine, is_elsewhere, unprotected};
pub use report::{
    AgentIdentity, AgentReport, Change, DesiredStateReport, DrainReport, Heartbeat, Orders, SpawnReport,
};
pub use verdict::{Assessment, Forecast, Foreseen, Judge, Offer, Room, Verdict};
pub use waiting::{MAX_LISTED, Pending, WaitingRequest};
