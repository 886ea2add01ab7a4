//! The agent: the process on a node that starts, supervises and ends its spawns.
//!
//! The modules form layers, from the top one to the lowest. Each names only those of its own layer and of the layers below it:
//!
//! | layer | modules |
//! | --- | --- |
//! | the agent's life | `life` (start), `shutdown` (end), `simulation` (an agent on a simulated machine), `fleet` (agents without processes, for a benchmark) |
//! | requests | `grpc` (calls of front doors), `admin` (probes and metrics), `admission` (from a request to a running process) |
//! | tasks | `relay` (reports to the registry), `adoption` (spawns of an earlier agent), `warm` (servers kept ready), `liveliness` (reports of servers), `viewers`, `viewer_watch` and `relay_watch` (who is connected), `drain`, `housekeeping`, `log_limit`, `port_search`, and `task` (how tasks end) |
//! | the task of one spawn | `supervision` |
//! | shared state | `node` (what all tasks share), `table` (what is known, behind one lock), `metrics` |
//! | a look without a life | `examine` (what an agent with these flags would find on this machine) |
//! | before the start | `preflight`, `own_ports` and `start_error` (what keeps it from starting), `exposure` and `separation` (what others and servers may not reach), `options` (flags) |
//! | what is kept and reported | `state` (the state directory), `logs`, `backlog` (changes to report), `agreement` (digests), `models`, `load` |
//! | one spawn | `spawn`: its facts, its process, and its states as a pure function |
//! | settings | `config` (checked) |
//! | the machine | `disk` (threads for it), `ports`, `port_conflicts`, `gpus`, `start_gate`, `procfs`, `sockets`, `looks`, `reaper`, `past` (spawns that are gone), `users` (whom spawns run as), `simulated` |
//! | words and connections | `desired_state` (an operator's order), `secret`, `endpoint`, `address`, `relay_state`, `accept`, `foreign` |
//!
//! Invariants:
//!
//! - The agent is the authority over its slots: it admits or refuses, whatever the registry says.
//! - One task owns one process. No two tasks write to one spawn's state.
//! - Only `relay` talks to the registry, and only `grpc` makes a gRPC status.
//! - No lock is held across an await, and no disk is touched on the runtime's threads.
//! - A process is signalled only after a check that its number still is that process's.
//!
//! When the agent fails, its spawns go on; the next agent with the same state directory adopts them (`state`, `adoption`).

mod accept;
mod address;
mod admin;
mod admission;
mod adoption;
mod agreement;
mod backlog;
mod config;
mod desired_state;
mod disk;
mod drain;
mod endpoint;
mod examine;
mod exposure;
#[doc(hidden)]
pub mod fleet;
mod foreign;
mod gpus;
mod grpc;
mod housekeeping;
mod life;
mod liveliness;
mod load;
mod log_limit;
mod logs;
mod looks;
mod metrics;
mod models;
mod node;
mod options;
mod own_ports;
mod past;
mod port_conflicts;
mod port_search;
mod ports;
mod preflight;
mod procfs;
mod reaper;
mod relay;
mod relay_state;
mod relay_watch;
mod secret;
mod separation;
mod shutdown;
#[doc(hidden)]
pub mod simulated;
#[doc(hidden)]
pub mod simulation;
mod sockets;
mod spawn;
mod start_error;
mod start_gate;
mod state;
mod supervision;
mod table;
mod task;
mod users;
mod viewer_watch;
mod viewers;
mod warm;

pub use config::{Config, ConfigError, Launcher, OnShutdown, Tls};
pub use endpoint::EndpointForm;
pub use examine::{Check, Subject};
pub use life::{Agent, Closed};
pub use options::{Options, warm_count};
pub use spawn::launch::{LAUNCHER, launch};
pub use start_error::StartError;
pub use users::SpawnUsers;
pub use users::user::SpawnUser;
