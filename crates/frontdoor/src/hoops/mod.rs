//! The vendor's HOOPS Server interface, for consumers that were written for it: `--hoops-listen`.
//!
//! ```text
//!                               ┌─ known path ─▶ spawn_request · operator ─┐
//!  listen ─▶ router ─ a request ┤                                          ├─▶ the spawn path of every front door
//!                  │            └─ other path ─▶ files                     │
//!                  └─ an upgrade ─▶ proxy: a new spawn, one by its port ───┴─▶ the relay of every front door
//! ```
//!
//! Reading order: `route` (what a path asks for), `router`, `request` and `form` (bodies), `endpoint` (URLs in answers), `spawn_request`,
//! `failure` and `answer` (the vendor's shapes), `proxy` (WebSockets), `index` and `follow` (which spawns there are), `operator`,
//! `files`.
//!
//! Owns: the index of living spawns, the count of upgrades that wait for their spawn. Everything else is the front door's own: spawns
//! are placed, limited, ended and relayed as all others are.
//!
//! Invariants: a spawn lives only once its answer, or its viewer's 101, is on its way. No caller is known here, so nothing that the
//! interface says names a path, a node's address or a secret, and nothing it does goes beyond the limits of its owner.
//!
//! Failure: every failure is one of the vendor's shapes (`failure`).

mod answer;
mod endpoint;
mod failure;
mod files;
mod follow;
mod form;
mod index;
mod operator;
mod parts;
mod proxy;
mod request;
mod route;
mod router;
mod spawn_request;

pub(crate) use self::parts::Hoops;
pub(crate) use self::router::router;
