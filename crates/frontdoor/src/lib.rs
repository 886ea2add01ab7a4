//! The front door: the stateless HTTP service that web clients and operators talk to. Any number of replicas run side by
//! side; any of them answers any request about any spawn, and losing one loses only the requests it was serving.
//!
//! Reading order: [`Options`] and [`Config`] (what it is told), `exposure` (what others may not reach without being asked who
//! they are), `door` (its parts, and how they start), `listen` (connections, with TLS and without), `spawn` (the path
//! of `POST /spawn`, top to bottom), `held` (a slot that is given back unless somebody keeps it), `line` (waiting for
//! capacity), `idempotency` (one key, one answer), `agent_client` (gRPC to the nodes), `operate` and `orders` (opening and
//! closing nodes), `http` (the surface: routes, handlers, errors), `pages` (dashboard, demo, client library), `watched` and `snapshot`
//! (the registry, and doing without it), `gate`, `pace`, `limits` and `callers` (who is let in, how often it may spawn, and how much of a front door it may take), `live` (telling subscribers what happens), `shared` (one answer for all who ask at the same time), `follower` and `sweeper` (what runs beside the requests), `shutdown` (the order of leaving).
//!
//! Invariants: only `http` knows status codes; only `agent_client` knows gRPC; a slot is never held by anything but a
//! `Held`, which gives it back when it is dropped.

mod agent_client;
mod callers;
mod http;
mod listen;
mod live;
mod metrics;
mod operations;
mod pages;
mod registry_access;
mod settings;
mod spawning;
mod start;
mod strict_json;

pub use http::openapi::openapi;
pub use settings::{Config, ConfigError, Limits, Options, Origins, Tls};
pub use start::{FrontDoor, StartError};
