//! The agent: the process on a node that starts, supervises and ends its spawns.
//!
//! From the top layer to the lowest. Layers hold by file: no file depends on itself through others, which a test holds. A directory has what
//! belongs together, so pure types of `spawn` (an exit, a user, a log) are named by layers below its tasks:
//!
//! | layer | modules |
//! | --- | --- |
//! | the agent's life | `life` (start), `shutdown` (end), `preflight` and `start_error` (what keeps it from starting) |
//! | requests | `grpc` (calls of front doors), `admin` (probes and metrics), `admission` (from a request to a running process) |
//! | tasks | `relay` (reports to the registry), `drain`, `housekeeping`, `log_limit`, `port_search`, `liveliness` (reports of servers), `adoption`, `warm` (servers kept ready) |
//! | one spawn | `spawn`: `run` and `driver` (the task that owns it), `start`, `hold`, and below them `lifecycle` and `exit` as pure functions |
//! | shared state | `node` (what all tasks share), `table` (what is known, behind one lock), `metrics`, `task` |
//! | the machine | `state` (the state directory), `disk` (threads for it), `logs`, `ports`, `gpus`, `start_gate`, `port_conflicts`, `procfs`, `reaper`, `load` |
//! | a look without a life | `examine`: what an agent with these flags would find on this machine; `fleet`: agents without processes, for a benchmark; `simulation`: an agent on a `simulated` machine |
//! | settings and access | [`Options`] (flags), [`Config`] (checked), `exposure` and `separation` (what others and servers may not reach), `foreign`, `accept`, `address` |
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
mod memory;
mod metrics;
mod models;
mod node;
mod options;
mod own_ports;
mod port_conflicts;
mod port_search;
mod ports;
mod preflight;
mod procfs;
mod reaper;
mod relay;
mod relay_state;
mod relay_watch;
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
mod table;
mod task;
mod viewer_watch;
mod viewers;
mod warm;

pub use config::{Config, ConfigError, Launcher, OnShutdown, Tls};
pub use endpoint::EndpointForm;
pub use examine::{Check, Subject};
pub use life::{Agent, Closed};
pub use options::{Options, warm_count};
pub use spawn::launch::{LAUNCHER, launch};
pub use spawn::user::SpawnUser;
pub use spawn::users::SpawnUsers;
pub use start_error::StartError;
