//! Threads for everything that touches a disk, so that a share that hangs stops nothing but what needs it.
//!
//! The kernel cannot be asked to give up: a thread inside `open`, `stat` or `exec` on a share that hangs stays there until the
//! share answers. So these calls never run on the runtime's workers, and each has a deadline that does not depend on them.
//!
//! Invariants: a lane has a fixed number of threads and a bounded queue. A call past its deadline fails at once, and its thread stays
//! occupied. When every thread of a lane hangs, further calls fail immediately. Lanes do not share threads, so a hung model
//! directory does not delay the journal.

mod lane;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::lane::Lane;
use crate::simulated::Machine;

/// How long the start of an agent waits for a look at one file. The few looks of a start together are shorter than the time after which a
/// node is down.
pub(crate) const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The lanes of one agent.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// Executable, log file, control group and `exec` of one start.
    pub(crate) starts: Lane,
    pub(crate) models: Lane,
    /// Journal and desired state. One thread, so that writes keep their order.
    pub(crate) state: Lane,
    /// Logs of spawns: reading, bounding, deleting.
    pub(crate) logs: Lane,
}

impl Disk {
    /// Starts one thread for each lane; more follow when they are needed.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            starts: Lane::new("starts", 16, 4096)?,
            models: Lane::new("models", 8, 4096)?,
            state: Lane::new("state", 1, 1024)?,
            logs: Lane::new("logs", 4, 4096)?,
        })
    }

    /// The lanes of a simulated machine.
    pub(crate) fn simulated(machine: &Arc<dyn Machine>) -> Self {
        let [starts, models, state, logs] =
            ["starts", "models", "state", "logs"].map(|name| Lane::simulated(name, Arc::clone(machine)));
        Self { starts, models, state, logs }
    }

    /// Each lane's name and how many of its threads hang.
    pub(crate) fn hung(&self) -> [(&'static str, usize); 4] {
        [&self.starts, &self.models, &self.state, &self.logs].map(|lane| (lane.name(), lane.hung()))
    }
}
