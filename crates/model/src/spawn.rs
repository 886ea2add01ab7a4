//! Spawns: the states they go through and how they end.
//!
//! | state | next |
//! | --- | --- |
//! | `launching` | `ready`, `stopping`, `exited` |
//! | `ready` | `suspect`, `disconnected`, `stopping`, `exited` |
//! | `suspect` | `ready`, `disconnected`, `stopping`, `exited` |
//! | `disconnected` | `stopping`, `exited` |
//! | `stopping` | `exited` |
//! | any of these | `lost`: the node went away |
//! | `lost`, or `exited` with `node-lost` | what the agent reports once it is back |
//!
//! The agent owns the state of its spawns, and one task of it writes each. The registry alone sets `lost`, and `exited` with
//! `node-lost`; what the agent reports afterwards replaces both. The names of the states are the vendor's where it has them.
//! `docs/internals/state.md` says which structure is authoritative when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::{Event, EventKind};
use crate::id::{NodeId, Owner, SpawnId};
use crate::origin::Origin;
use crate::time::Timestamp;
use crate::words::words;

/// Where the picture is rendered.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RendererType {
    /// Client-side rendering: the viewer draws.
    #[default]
    Csr,
    /// Server-side rendering: the server draws, on a GPU where the node has one.
    Ssr,
}
words!(RendererType { Csr = "csr", Ssr = "ssr" });

/// The state of a spawn. The agent sets every state but `lost`, and `exited` with `node-lost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpawnState {
    /// The agent has admitted it; its process is starting.
    Launching,
    /// Its server has reported `ready`: a viewer can connect.
    Ready,
    /// It was ready, and its server has been silent for too long.
    Suspect,
    /// Its server has reported `disconnect`; the process is still there.
    Disconnected,
    /// Its agent has asked the process to end.
    Stopping,
    /// It has ended; see [`Exit`].
    Exited,
    /// Its node went away. It comes back in its real state if the node does.
    Lost,
}
words!(SpawnState {
    Launching = "launching",
    Ready = "ready",
    Suspect = "suspect",
    Disconnected = "disconnected",
    Stopping = "stopping",
    Exited = "exited",
    Lost = "lost",
});

impl EventKind {
    /// The event that says a spawn is in this state.
    #[must_use]
    pub const fn of_state(state: SpawnState) -> Self {
        use SpawnState as S;
        match state {
            S::Launching => Self::SpawnLaunching,
            S::Ready => Self::SpawnReady,
            S::Suspect => Self::SpawnSuspect,
            S::Disconnected => Self::SpawnDisconnected,
            S::Stopping => Self::SpawnStopping,
            S::Exited => Self::SpawnExited,
            S::Lost => Self::SpawnLost,
        }
    }

    /// The state that this event says a spawn is in; `None` for what is no change of a spawn's state.
    #[must_use]
    pub const fn state(self) -> Option<SpawnState> {
        use SpawnState as S;
        match self {
            Self::SpawnLaunching => Some(S::Launching),
            Self::SpawnReady => Some(S::Ready),
            Self::SpawnSuspect => Some(S::Suspect),
            Self::SpawnDisconnected => Some(S::Disconnected),
            Self::SpawnStopping => Some(S::Stopping),
            Self::SpawnExited => Some(S::Exited),
            Self::SpawnLost => Some(S::Lost),
            Self::NodeUp
            | Self::NodeStale
            | Self::NodeDown
            | Self::NodeCordoned
            | Self::NodeUncordoned
            | Self::NodeDraining
            | Self::NodeDrained
            | Self::NodeCapacity
            | Self::NodeFailing
            | Self::NodeRecovered
            | Self::NodeForgotten
            | Self::SpawnConnected
            | Self::SpawnPing => None,
        }
    }
}

/// Whether a viewer is connected to a spawn. One server has one viewer in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ViewerPresence {
    /// A viewer is connected.
    Connected,
    /// A viewer was connected.
    Gone,
    /// No viewer has connected.
    #[default]
    Never,
}
words!(ViewerPresence { Connected = "connected", Gone = "gone", Never = "never" });

/// Why a spawn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// The normal end, after its viewer left.
    Disconnected,
    /// No viewer ever connected; the server ended itself.
    InitialUseTimeout,
    /// It ended by itself with an unexpected exit code, or the agent could not learn how it ended.
    Failed,
    /// A signal that Hatchery did not send ended it.
    Signaled,
    /// Its server did not report `ready` in time, so the agent ended it.
    ReadyTimeout,
    /// Its server went silent, or its reports could not reach the agent any more, so the agent ended it.
    LivelinessLost,
    /// A caller ended it through the API.
    Stopped,
    /// It has lived as long as it may, see `maxSeconds`.
    Expired,
    /// Its viewer has sent nothing for too long, see `--max-idle`.
    Idle,
    /// Its node was drained and the deadline came.
    Drained,
    /// Its caller hung up before the answer.
    Cancelled,
    /// Its node went away and came back without it, stayed away for a day, or was forgotten.
    NodeLost,
}
impl ExitReason {
    /// Whether the server failed, rather than was asked to end: soon after `ready` it counts against the node.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Signaled | Self::LivelinessLost)
    }
}
words!(ExitReason {
    Disconnected = "disconnected",
    InitialUseTimeout = "initial-use-timeout",
    Failed = "failed",
    Signaled = "signaled",
    ReadyTimeout = "ready-timeout",
    LivelinessLost = "liveliness-lost",
    Stopped = "stopped",
    Expired = "expired",
    Idle = "idle",
    Drained = "drained",
    Cancelled = "cancelled",
    NodeLost = "node-lost",
});

/// How a spawn ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Why it ended: a word for programs.
    pub reason: ExitReason,
    /// The process's exit code, if it exited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<i32>,
    /// The signal that ended it, for example `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<String>,
    /// The vendor's text for the code, or what the agent found out, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
}

/// A spawn as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnRecord {
    /// Id of the spawn, which is also that of its reservation.
    pub id: SpawnId,
    /// The node that it runs on.
    pub node: NodeId,
    /// Where its viewer connects.
    pub endpoint: String,
    /// Whether the viewer or the server renders.
    pub renderer: RendererType,
    /// The state that it is in.
    pub state: SpawnState,
    /// How it ended; `None` while it runs.
    pub exit: Option<Exit>,
    /// When its agent admitted it. All times are of the registry's clock.
    pub started_at: Timestamp,
    /// When its server first reported `ready`.
    pub ready_at: Option<Timestamp>,
    /// When its server last reported that it is alive.
    pub last_ping_at: Option<Timestamp>,
    /// When its viewer connected; the latest one, if there was more than one.
    pub connected_at: Option<Timestamp>,
    /// When its viewer left; absent while one is connected.
    pub disconnected_at: Option<Timestamp>,
    /// When it is ended at the latest.
    pub expires_at: Option<Timestamp>,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<Timestamp>,
    /// The pool that its node belongs to.
    pub pool: String,
    /// The labels that its request asked for.
    pub labels: BTreeMap<String, String>,
    /// The caller's own pairs of text, see [`crate::tags`].
    pub tags: BTreeMap<String, String>,
    /// The caller that it belongs to, where callers are authenticated.
    pub owner: Option<Owner>,
    /// The request that it comes from; filled in only where one spawn is asked for.
    pub origin: Origin,
    /// Index of the GPU that it was given, where GPUs are counted.
    pub gpu: Option<u32>,
    /// The id that its server was started with, where it was kept warm before the spawn was asked for.
    pub server: Option<SpawnId>,
    /// What happened to it, oldest first; filled in only where one spawn is asked for.
    pub events: Vec<Event>,
}

impl SpawnRecord {
    /// Whether a viewer is connected to it.
    #[must_use]
    pub fn viewer(&self) -> ViewerPresence {
        ViewerPresence::of(self.state, self.connected_at, self.disconnected_at)
    }
}

impl ViewerPresence {
    /// What the times of a spawn's viewer mean, with the state that it is in.
    #[must_use]
    pub fn of(state: SpawnState, connected: Option<Timestamp>, disconnected: Option<Timestamp>) -> Self {
        match (connected, disconnected, state) {
            (None, _, _) => Self::Never,
            (Some(_), None, SpawnState::Disconnected | SpawnState::Exited) | (Some(_), Some(_), _) => {
                Self::Gone
            }
            (Some(_), None, _) => Self::Connected,
        }
    }
}
