//! One spawn in the table, and the words in which others ask about it.

use std::sync::Arc;

use model::SpawnState;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::spawn::exit::Cause;
use crate::spawn::{SpawnOutcome, SpawnStatus};

/// What other tasks have for the driver of a spawn. Everything in it coalesces, so it needs no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Inbox {
    pub(crate) ready: bool,
    pub(crate) disconnect: bool,
    pub(crate) end: Option<Cause>,
    /// Asked to end more than once: no more grace.
    pub(crate) hurry: bool,
}

impl Inbox {
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What a spawned server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveliness {
    Ready,
    Ping,
    Disconnect,
}

/// How far the start of a spawn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Admitted; its start waits for its turn.
    Queued,
    /// Its process is being started; not published.
    Starting,
    /// Its start took too long and its callers were refused. It holds its slot, port and GPU until the start is
    /// over, and is not published.
    GivenUp,
    /// Its process runs.
    Launched,
}

/// A viewer that a relay has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelayViewer {
    /// Names its connection.
    pub(super) id: Uuid,
    /// Whether it is connected; until then the relay may be connecting.
    pub(super) is_connected: bool,
}

/// One spawn in the table.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spawn: SpawnStatus,
    /// 0 until the process was started.
    pub(crate) pid: u32,
    pub(super) stage: Stage,
    pub(super) inbox: Inbox,
    /// Wakes the driver.
    pub(super) notify: Arc<Notify>,
    pub(super) answer: watch::Receiver<Option<SpawnOutcome>>,
    /// Callers that have not been answered yet.
    pub(super) waiting: u32,
    /// Whether some caller was answered.
    pub(super) answered: bool,
    /// Started by an earlier agent.
    pub(super) adopted: bool,
    /// The viewer that a relay has for it.
    pub(super) viewer: Option<RelayViewer>,
    /// When its viewer last sent something, as far as was looked.
    pub(super) active: Option<Instant>,
}

impl Entry {
    pub(super) fn is_given_up(&self) -> bool {
        self.stage == Stage::GivenUp
    }
}

/// The answer to a request to end a spawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Stopping,
    Ended,
    Unknown,
}

/// Whether asking again for an end that has begun means KILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Hurries,
    ChangesNothing,
}

/// Whether spawns are admitted at all, whatever is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AdmissionMode {
    #[default]
    Open,
    /// The agent ends.
    ShuttingDown,
    /// The agent ends once its last spawn has ended.
    Emptying,
    /// Another agent that is alive has the node; it may turn out to be gone.
    Taken,
    /// Another agent has taken the node over.
    Superseded,
}

/// How many spawns are in which state, and what they use.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) by_state: Vec<(SpawnState, usize)>,
    /// Callers that wait for their answer.
    pub(crate) waiting: u32,
    pub(crate) ports: usize,
    pub(crate) gpu_slots: u32,
    pub(crate) backlog: usize,
    pub(crate) dropped: u64,
}
