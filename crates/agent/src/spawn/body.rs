//! What a spawn runs as: a process, or nothing at all in benchmarks of placement.

use tokio::time::Instant;

use super::cgroup::Group;
use super::exit::Status;
use super::lifecycle::Signal;
use super::process::Process;

/// What a spawn runs as.
#[derive(Debug)]
pub(crate) enum Body {
    Process(Process),
    /// No process at all. It ends of the first signal, or when its time is up because no viewer will ever connect.
    Nothing {
        ended: Option<Signal>,
        until: Instant,
    },
}

impl Body {
    pub(crate) async fn ended(&self) -> Status {
        match self {
            Self::Process(process) => process.ended().await,
            Self::Nothing { ended: None, until } => {
                tokio::time::sleep_until(*until).await;
                Status::Code(0)
            }
            Self::Nothing { ended: Some(Signal::Term), .. } => Status::Signal(15),
            Self::Nothing { ended: Some(Signal::Kill), .. } => Status::Signal(9),
        }
    }

    /// The number of its process; 0 without one.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Process(process) => process.pid(),
            Self::Nothing { .. } => 0,
        }
    }

    pub(crate) fn group(&self) -> Option<&Group> {
        match self {
            Self::Process(process) => process.group(),
            Self::Nothing { .. } => None,
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        match self {
            Self::Process(process) => process.signal(signal),
            Self::Nothing { ended, .. } => *ended = Some(signal),
        }
    }
}
