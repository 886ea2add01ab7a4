//! The front door: the stateless HTTP service that web clients and operators call. Any number of replicas run side by
//! side; any of them answers any request about any spawn, and losing one loses only the requests it was serving.
//!
//! The modules form layers. Each uses only what stands below it:
//!
//! | layer | modules |
//! | --- | --- |
//! | start-up and shutdown | `start` |
//! | the vendor's interface | `hoops` (what consumers of the vendor's HOOPS Server call) |
//! | the edge | `http` (routes, handlers, errors) |
//! | what a front door does | `spawning` (`POST /spawn`), `operations` (operators' orders), `live` (the live feed), `viewers` (the relay of viewers to their spawns), `pages` (dashboard, demo, client library), `webhooks` (events, posted to receivers) |
//! | connections | `listen` |
//! | what it depends on | `registry_access` (the registry, and doing without it), `agent_client` (gRPC to the nodes), `callers` (credentials and limits) |
//! | foundations | `metrics`, `settings`, `stages` (shutdown), `request_context` (a request's id and its place in a trace), `strict_json`, `backoff` |
//!
//! Reading order: `settings` (flags, checked), `start::parts` (what there is, and what each part is given), `http::routes` (every
//! route on one screen), `spawning` (the path of `POST /spawn`, top to bottom), `registry_access`, then the rest as needed. Each
//! directory's own documentation begins with its reading order.
//!
//! Invariants: only `http` and `hoops` know status codes; only `agent_client` knows gRPC; a slot is only ever held by a
//! `spawning::held_slot::HeldSlot`, which gives it back when it is dropped; no module but `start`, `http` and `hoops` sees the whole.

mod agent_client;
mod backoff;
mod callers;
mod hoops;
mod http;
mod listen;
mod live;
mod metrics;
mod operations;
mod pages;
mod registry_access;
mod request_context;
mod settings;
mod spawning;
mod stages;
mod start;
mod strict_json;
mod viewers;
mod webhooks;

#[doc(hidden)]
pub use agent_client::Dial;
pub use http::openapi;
pub use settings::{
    Config, ConfigError, HoopsEndpoint, HoopsOptions, HoopsSettings, LifeOptions, Limits, Lives, Options,
    Origins, OwnNode, ProxyOptions, PublicUrl, RelayOptions, Surface, Tls, TrustedProxies, ViewerOptions,
    ViewerSettings, WebhookOptions, WebhookSettings,
};
#[doc(hidden)]
pub use start::SimulatedFrontDoor;
pub use start::{FrontDoor, StartError};
