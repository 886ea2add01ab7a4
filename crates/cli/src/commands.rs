//! One module per command: its flags, its examples, and what it does.
//!
//! Commands do not know each other, but for `soak`, which puts on the load of `bench`, and what `drain` and `stop` share with `cordon` and
//! `show`. [`crate::dispatch`] runs them.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod completions;
pub(crate) mod cordon;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod explain;
pub(crate) mod forget;
pub(crate) mod frontdoor;
pub(crate) mod key;
pub(crate) mod log;
pub(crate) mod nodes;
mod redraw;
pub(crate) mod relay;
mod role;
pub(crate) mod show;
pub(crate) mod soak;
pub(crate) mod spawn;
pub(crate) mod spawns;
pub(crate) mod stop;
mod timeline;
pub(crate) mod token;
pub(crate) mod waiting;
pub(crate) mod watch;
