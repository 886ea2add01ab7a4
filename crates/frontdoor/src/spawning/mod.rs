//! Spawning: from a caller's order to a spawn that is ready, and what is undone when it does not get that far.
//!
//! ```text
//!  order ─▶ rate · idempotency ─▶ spawner ─▶ search ─┬─▶ placer ─▶ registry, or the snapshot ─▶ held slot ─▶ agent
//!                                    ▲               └─▶ line (while the farm is full)              │
//!                                    └──── attempts · exclusions ◀──────── failure ─────────────────┘
//! ```
//!
//! Reading order: `order` (what a caller asks for), `spawner` (the path of `POST /spawn`, top to bottom), `search` (the next node),
//! `placer` (asking for a slot), `held_slot` (a slot that is given back unless the spawn lives), `attempts` and `exclusions` (what
//! failures mean), `line` (waiting for capacity), `progress`, `positions` and `pace` (how far a request has come, for those who watch it),
//! `rate` (how often a caller may spawn), `idempotency` and `single_flight` (one key, one answer), `error` (why there is no spawn),
//! `reachability` (nodes whose agent does not answer this front door), `assessed` and `why` (why a node is chosen or not, in counts and in words).
//!
//! Invariant: a slot is only ever held by a [`held_slot::HeldSlot`], which gives it back when it is dropped.

pub(crate) mod assessed;
pub(crate) mod attempts;
pub(crate) mod error;
mod exclusions;
pub(crate) mod held_slot;
pub(crate) mod idempotency;
pub(crate) mod line;
pub(crate) mod order;
mod pace;
pub(crate) mod placer;
pub(crate) mod positions;
pub(crate) mod progress;
mod proof;
pub(crate) mod rate;
pub(crate) mod reachability;
mod search;
pub(crate) mod single_flight;
pub(crate) mod spawner;
mod why;
