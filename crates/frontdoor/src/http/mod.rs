//! The HTTP surface: routes, handlers, and errors as answers. Nothing outside this module knows status codes.
//!
//! ```text
//!  observe (id, log line, metrics) ─▶ origin (foreign pages) ─▶ authorization (credential, limits) ─▶ handler
//! ```
//!
//! Reading order: `routes` (every route on one screen), `route` (the layers around each of them), `edge` (what handlers have at hand),
//! `error` (what means what), `extract`, then the handlers: `post_spawn` (with `spawn_call`, and `negotiation` and `spawn_stream` where its
//! caller watches), `explain`, `spawns`, `waiting`, `nodes`, `eligibility`, `forget`, `audit`, `history`, `live_upgrade`, `viewer_upgrade`, `probes`,
//! `page_routes`. `description` and `problem_sets` describe the surface; `coalesced` makes one answer for many callers, and `reasons` says
//! what stands against each node.

mod audit;
mod authorization;
mod coalesced;
mod description;
mod edge;
mod eligibility;
mod ended_by;
mod error;
mod explain;
mod extract;
mod forget;
mod history;
mod list_turns;
mod live_upgrade;
mod negotiation;
mod nodes;
mod observe;
mod origin;
mod page_routes;
mod post_spawn;
mod probes;
mod problem_sets;
mod reasons;
mod request_id;
mod route;
mod routes;
mod spawn_call;
mod spawn_stream;
mod spawns;
mod viewer_upgrade;
mod waiting;
mod warnings;
mod when;

pub(crate) use self::edge::{Answers, Edge};
pub(crate) use self::error::ApiError;
pub(crate) use self::extract::{Unread, read, request_id};
pub(crate) use self::list_turns::ListTurns;
pub(crate) use self::observe::{CallersFlag, Observed, OpenTo, around};
pub(crate) use self::origin::{Reach, check_host, may_send};
pub(crate) use self::post_spawn::handing_over;
pub(crate) use self::probes::check;
pub use self::routes::openapi;
pub(crate) use self::routes::{admin_router, router};
pub(crate) use self::spawn_call::start;

#[cfg(test)]
mod tests;
