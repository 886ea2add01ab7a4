//! The process group of one spawn: the kernel's, or one of a simulated machine.

mod kernel;

use std::fs::File;
use std::io;
use std::process::Command;
use std::sync::Arc;

use self::kernel::KernelProcess;
use super::cgroup::Group;
use super::exit::Status;
use super::lifecycle::Signal;
use crate::simulated::{Ended, Server};

/// A process that leads its own group. Dropping it leaves the process alone.
#[derive(Debug)]
pub(crate) enum Process {
    Kernel(KernelProcess),
    /// Of a simulated machine; whether an earlier agent started it, so that its status is not to be had.
    Simulated(Arc<dyn Server>, bool),
}

impl Process {
    /// Starts `command` in a process group of its own, with its output appended to `output`.
    pub(crate) fn start(command: Command, output: File, group: Option<Group>) -> io::Result<Self> {
        KernelProcess::start(command, output, group).map(Self::Kernel)
    }

    /// Takes over a process that an earlier agent started at `start`; `None` when it is gone.
    pub(crate) fn adopt(pid: u32, start: u64) -> io::Result<Option<Self>> {
        Ok(KernelProcess::adopt(pid, start)?.map(Self::Kernel))
    }

    /// The same in this control group.
    pub(crate) fn within(self, group: Option<Group>) -> Self {
        match self {
            Self::Kernel(process) => Self::Kernel(process.within(group)),
            Self::Simulated(..) => self,
        }
    }

    pub(crate) fn group(&self) -> Option<&Group> {
        match self {
            Self::Kernel(process) => process.group(),
            Self::Simulated(..) => None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Kernel(process) => process.pid(),
            Self::Simulated(server, _) => server.pid(),
        }
    }

    /// When it was started, as the kernel counts.
    pub(crate) fn start_time(&self) -> u64 {
        match self {
            Self::Kernel(process) => process.start_time(),
            Self::Simulated(server, _) => server.started(),
        }
    }

    /// Waits until the leader has ended, ends what is left of its group, and says how it ended.
    ///
    /// May be dropped and called again. Once it has returned, the number may belong to another process.
    pub(crate) async fn ended(&self) -> Status {
        match self {
            Self::Kernel(process) => process.ended().await,
            Self::Simulated(server, is_adopted) => match server.ended().await {
                _ if *is_adopted => Status::Unknown,
                Ended::Code(code) => Status::Code(code),
                Ended::Signal(signal) => Status::Signal(signal),
            },
        }
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        match self {
            Self::Kernel(process) => process.signal(signal),
            Self::Simulated(server, _) => server.signal(signal == Signal::Kill),
        }
    }
}
