//! What an agent needs of its machine, where a simulation stands in for it: processes, disk, and the time since the machine's start.
//!
//! A simulation supplies a [`Machine`] with [`Launcher::Simulated`](crate::Launcher); everywhere else the kernel does what is listed here, in
//! `spawn::process`, `disk::lane` and `state::moment`. Nothing here knows the agent.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Work that touches the disk.
pub type Job = Box<dyn FnOnce() + Send>;

/// A machine that runs one agent.
pub trait Machine: Debug + Send + Sync {
    /// Names this run of the machine: it changes when the machine starts anew.
    fn boot(&self) -> String;

    /// The time since the machine's start.
    fn since_boot(&self) -> Duration;

    /// Runs `job` after those that were given to this lane before. What has not run is lost when the agent ends.
    fn run(&self, lane: &'static str, job: Job);

    /// Starts a server with these arguments, which writes to this log.
    ///
    /// # Errors
    /// The machine starts nothing.
    fn start(&self, arguments: Vec<String>, log: &Path) -> io::Result<Arc<dyn Server>>;

    /// The servers that run.
    fn servers(&self) -> Vec<Arc<dyn Server>>;
}

/// How the process of a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// A process group of a [`Machine`].
pub trait Server: Debug + Send + Sync {
    /// Its process number, which no other living process of the machine has.
    fn pid(&self) -> u32;

    /// When it was started; no other process with its number has the same.
    fn started(&self) -> u64;

    /// What it was started with.
    fn arguments(&self) -> Vec<String>;

    /// What it writes to.
    fn log(&self) -> PathBuf;

    /// Sends TERM or KILL to the group.
    fn signal(&self, kill: bool);

    /// Resolves when it has ended. May be dropped and called again.
    fn ended(&self) -> Pin<Box<dyn Future<Output = Ended> + Send + '_>>;
}

/// A machine as a setting: equal to itself alone.
#[derive(Debug, Clone)]
pub struct SimulatedMachine(pub Arc<dyn Machine>);

impl PartialEq for SimulatedMachine {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SimulatedMachine {}
