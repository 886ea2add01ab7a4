//! The process on a node that supervises its spawns.
//!
//! Reading order: [`Config`] and [`Options`] (what an agent is told), `exposure` (what others may not reach), `separation` (what
//! servers may not), `foreign` (what web pages may not ask), [`Agent`] (its
//! life), then inside: `doorway` (connections with TLS), `admission` (from
//! a request to a process), `table` (what is known, behind one lock), `spawn` (the task that owns one process),
//! `liveliness` (what spawned servers say), `relay` (what the registry is told), `drain` and `shutdown` (how it ends),
//! `state` and `adoption` (how the next agent goes on with what this one has started).
//!
//! The agent is the authority over its slots: whatever the registry says, it admits or refuses. Only `grpc` makes a gRPC
//! status, only `relay` talks to the registry, one `spawn::driver` owns one process.

mod admin;
mod admission;
mod adoption;
mod backlog;
mod config;
mod disk;
mod doorway;
mod drain;
mod endpoint;
mod exposure;
mod foreign;
mod gpus;
mod grpc;
mod intruders;
mod life;
mod liveliness;
mod load;
mod log_limit;
mod logs;
mod memory;
mod metrics;
mod models;
mod node;
mod options;
mod ports;
mod procfs;
mod reaper;
mod relay;
mod separation;
mod shutdown;
mod sockets;
mod spawn;
mod state;
mod table;
mod task;
mod viewers;

pub use config::{Config, ConfigError, Launcher, OnShutdown, Tls};
pub use endpoint::EndpointForm;
pub use life::{Agent, Closed, StartError};
pub use options::Options;
pub use spawn::launch::{LAUNCHER, launch};
pub use spawn::user::SpawnUser;
pub use spawn::users::SpawnUsers;
