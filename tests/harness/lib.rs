//! A farm of real processes for tests: the programs as they are shipped, a Redis of its own, real sockets.
//!
//! Nothing in here knows how the programs work inside. In reading order: [`binaries`] builds the programs, [`program`] says which of them a
//! role runs, [`role`] runs it, [`redis`] runs a Redis, [`sentinels`] what watches over one, [`farm`] puts them together: each [`door`], and each [`agent`] as its [`plan`] says, [`share`] is a disk that can hang, [`moody`] a server that can fail, [`moods`] what can
//! be wrong with a Redis that is there, [`pressure`] fills its memory, [`memory_limit`] limits that of a process, [`dev`] runs the
//! farm of one process, [`hosts`] is a network of machines to spread one over, [`balancer`] runs the load balancers that are shipped, [`keys`] makes API keys for a farm;
//! [`http`], [`live`], [`viewer`], [`command`] and [`browser`] are the ways to talk to a farm;
//! [`certs`] makes certificates as an operator does;
//! [`phantom`] is a node of the registry only, [`phantom_farm`] many of them with spawns, [`impostor`] one that says to be a node; [`processes`], [`audit`], [`metrics`], [`outputs`] and [`logs`] are the ways to look at one from outside;
//! [`load`] is many clients, [`crowd`] many strangers, [`greedy`] one caller at all of its limits, [`faults`] is what happens to a farm meanwhile (with [`link`] for the network),
//! [`collector`] takes what is traced,
//! [`verdict`] says whether all promises were kept, at the end of a [`site`]; [`company`] must not notice what happens; [`wait`] is how a test waits, [`ports`] and [`guard`] keep tests out of each other's way.

pub mod agent;
pub mod audit;
pub mod balancer;
pub mod binaries;
pub mod browser;
pub mod certs;
pub mod collector;
pub mod command;
pub mod company;
pub mod crowd;
pub mod dev;
pub mod door;
pub mod farm;
pub mod faults;
pub mod greedy;
pub mod guard;
pub mod hosts;
pub mod http;
pub mod impostor;
pub mod keys;
pub mod link;
pub mod live;
pub mod load;
pub mod logs;
pub mod memory_limit;
pub mod metrics;
pub mod moods;
pub mod moody;
pub mod node_relay;
pub mod outputs;
pub mod phantom;
pub mod phantom_farm;
pub mod plan;
pub mod ports;
pub mod pressure;
pub mod problem;
pub mod processes;
pub mod program;
pub mod raw_viewer;
pub mod receiver;
pub mod redis;
pub mod role;
pub mod sentinels;
pub mod share;
pub mod site;
pub mod skip;
pub mod users;
pub mod verdict;
pub mod viewer;
pub mod wait;

pub use audit::Audit;
pub use browser::Browser;
pub use certs::Certs;
pub use collector::{Collector, Traced};
pub use command::Ran;
pub use dev::Dev;
pub use farm::{Farm, FarmBuilder};
pub use http::{Client, Response};
pub use impostor::Impostor;
pub use live::Subscriber;
pub use moody::{Mood, Moody};
pub use phantom::Phantom;
pub use plan::AgentPlan;
pub use problem::Problem;
pub use program::Release;
pub use receiver::{Posted, Receiver};
pub use redis::RedisServer;
pub use role::Role;
pub use sentinels::Sentinels;
pub use share::Share;
pub use skip::{is_root, skipped};
pub use viewer::Viewer;
pub use wait::{Look, until};
