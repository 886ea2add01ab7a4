//! Spawns: the states they go through and how they end.
//!
//! ```text
//!  launching ──▶ ready ◀──▶ suspect
//!      │           │  ╲        │
//!      │           ▼   ╲       ▼
//!      │     disconnected ╲  stopping
//!      │           │        ╲  │
//!      └───────────┴──────────▶ exited           any state but exited ◀──▶ lost (the node went away, came back)
//! ```
//!
//! The agent owns the state of its spawns. The registry alone sets `lost`, and `exited` with `node-lost`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::{Event, EventKind};
use crate::id::{NodeId, Owner, SpawnId};
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

/// Where a spawn is in its life. The agent sets every state but `lost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpawnState {
    /// The agent has admitted it; its process is starting.
    Launching,
    /// It said so: a viewer can connect.
    Ready,
    /// It was ready and has been silent for too long.
    Suspect,
    /// It said goodbye; its process is still there.
    Disconnected,
    /// It was asked to end.
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
}

/// Why a spawn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// The normal end, after its viewer left.
    Disconnected,
    /// No viewer ever connected; the server ended itself.
    InitialUseTimeout,
    /// It ended by itself with an exit code that was not expected then, or so that nobody can say how.
    Failed,
    /// A signal that Hatchery did not send ended it.
    Signaled,
    /// It did not say `ready` in time and was ended.
    ReadyTimeout,
    /// It went silent, or its agent could not hear it any more, and was ended.
    LivelinessLost,
    /// Its end was asked for through the API.
    Stopped,
    /// Its node was drained and the deadline came.
    Drained,
    /// Its caller went away before the answer.
    Cancelled,
    /// Its node went away and came back without it.
    NodeLost,
}
words!(ExitReason {
    Disconnected = "disconnected",
    InitialUseTimeout = "initial-use-timeout",
    Failed = "failed",
    Signaled = "signaled",
    ReadyTimeout = "ready-timeout",
    LivelinessLost = "liveliness-lost",
    Stopped = "stopped",
    Drained = "drained",
    Cancelled = "cancelled",
    NodeLost = "node-lost",
});

/// How a spawn ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// The process's exit code, if it exited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<i32>,
    /// The signal that ended it, for example `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<String>,
    /// The vendor's text for the code, or what was found out in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
}

/// A spawn as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnRecord {
    /// Its id.
    pub id: SpawnId,
    /// Where it runs.
    pub node: NodeId,
    /// Where its viewer connects.
    pub endpoint: String,
    /// How it renders.
    pub renderer: RendererType,
    /// Where it is in its life.
    pub state: SpawnState,
    /// How it ended.
    pub exit: Option<Exit>,
    /// When its agent admitted it.
    pub started_at: Timestamp,
    /// When it first said `ready`.
    pub ready_at: Option<Timestamp>,
    /// When it last reported.
    pub last_ping_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The pool of its node.
    pub pool: String,
    /// The labels its request asked for.
    pub labels: BTreeMap<String, String>,
    /// Who had it spawned, where callers have to say who they are.
    pub owner: Option<Owner>,
    /// The GPU it was given.
    pub gpu: Option<u32>,
    /// What happened to it, oldest first; filled in only where one spawn is asked for.
    pub events: Vec<Event>,
}
