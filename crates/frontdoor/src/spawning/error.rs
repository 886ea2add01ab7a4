//! Why there is no spawn: the reason that decides the answer, and its words. Several attempts may have failed; `attempts.rs` says
//! which reason counts.

use model::api;
use model::{Exit, NodeId, SpawnId};
use registry::RegistryError;

use crate::callers::LimitExceeded;

/// The reason that decides the answer.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// Every matching node is full, or said so.
    NoCapacity { why: String },
    /// The owner has as many as it may have.
    OverQuota { max: u32 },
    /// The caller has as many requests in line here as it may have.
    LimitExceeded(LimitExceeded),
    /// No node matches.
    NoMatchingNode { why: String },
    /// The nodes left could not be reached. `node`: the last that was tried.
    Unreachable { node: NodeId, why: String },
    /// The process ended before it was ready.
    Failed { node: NodeId, spawn: SpawnId, exit: Box<Exit>, log: Vec<String> },
    /// The process could not even be started.
    CannotStart { node: NodeId, spawn: SpawnId, why: String },
    /// The process was not ready in time, or its agent did not answer in time.
    NotReady { node: NodeId, spawn: SpawnId, log: Option<Vec<String>> },
    /// The agent found that the model leads outside its directories.
    BadModel { why: String },
    /// The registry is away.
    Registry(RegistryError),
}

impl SpawnError {
    /// Whether no node had a slot for the request.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Self::NoCapacity { .. } | Self::NoMatchingNode { .. } | Self::Unreachable { .. })
    }
}

/// Why no node takes a spawn, in words.
pub(crate) const FULL: &str = "every node that offers what was asked for is full";
pub(crate) const NO_MATCH: &str = "no node offers what was asked for";
pub(crate) const UNREACHED: &str = "no node that offers what was asked for could be reached";
pub(crate) const FULL_OR_UNREACHED: &str =
    "every node that offers what was asked for is full or could not be reached";
pub(crate) const CLOSED: &str = "the nodes that offer what was asked for are down, cordoned or draining";

/// A request that gets no spawn: the reason, and every node that was tried.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) error: SpawnError,
    pub(crate) attempts: Vec<api::Attempt>,
    /// The same nodes, each with the key under which it counts among the reasons of a refusal.
    pub(crate) passed_over: Vec<(NodeId, &'static str)>,
}
