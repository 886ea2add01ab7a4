//! Errors of the HTTP contract: RFC 9457 problem documents and their stable codes.
//!
//! A code has one status and one title. Only the front door makes problems; the command line reads them and exits by code.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{NodeId, SpawnId};
use crate::spawn::Exit;

/// Stable error codes, for programs. A code is never renamed, and never changes its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// Bad JSON, an unknown field, a wrong type, a path outside the model directories.
    InvalidRequest,
    /// No credential, or one that is not good.
    Unauthenticated,
    /// The credential is good, but not for this.
    Forbidden,
    /// The request comes from a page of an origin that may not do this.
    OriginNotAllowed,
    /// No such spawn, node or route.
    NotFound,
    /// The route does not take this method.
    MethodNotAllowed,
    /// The same idempotency key came with another body.
    IdempotencyConflict,
    /// The spawn has a viewer.
    AlreadyConnected,
    /// The node is up: it would only register again.
    NodeUp,
    /// The spawn that the idempotency key was answered with has ended.
    SpawnEnded,
    /// The body is longer than 64 KiB.
    BodyTooLarge,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// The request names a host that this server does not know as its own.
    HostNotAllowed,
    /// This route is a WebSocket.
    UpgradeRequired,
    /// The caller calls, or starts spawns, faster than it may.
    RateLimited,
    /// The caller has as many spawns, calls, live connections or places in line as it may have at once.
    QuotaExceeded,
    /// Every matching node is full, and waiting is over.
    NoCapacity,
    /// No up and eligible node carries the labels, pool or renderer.
    NoMatchingNode,
    /// The process ended before it was ready.
    SpawnFailed,
    /// It did not say ready in time and was ended.
    ReadyTimeout,
    /// Redis is away and this call cannot be answered without it.
    RegistryUnavailable,
    /// The node's agent could not be reached, and only it could answer.
    NodeUnreachable,
    /// This front door is shutting down; another one, or this one started again, can answer.
    ShuttingDown,
    /// A defect of Hatchery.
    Internal,
}

impl ErrorCode {
    /// Every code, for metrics that begin with 0.
    pub const ALL: [Self; 24] = [
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::OriginNotAllowed,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::IdempotencyConflict,
        Self::AlreadyConnected,
        Self::NodeUp,
        Self::SpawnEnded,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::HostNotAllowed,
        Self::UpgradeRequired,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::NoCapacity,
        Self::NoMatchingNode,
        Self::SpawnFailed,
        Self::ReadyTimeout,
        Self::RegistryUnavailable,
        Self::NodeUnreachable,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// The code as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::OriginNotAllowed => "origin-not-allowed",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::IdempotencyConflict => "idempotency-conflict",
            Self::AlreadyConnected => "already-connected",
            Self::NodeUp => "node-up",
            Self::SpawnEnded => "spawn-ended",
            Self::BodyTooLarge => "body-too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::HostNotAllowed => "host-not-allowed",
            Self::UpgradeRequired => "upgrade-required",
            Self::RateLimited => "rate-limited",
            Self::QuotaExceeded => "quota-exceeded",
            Self::NoCapacity => "no-capacity",
            Self::NoMatchingNode => "no-matching-node",
            Self::SpawnFailed => "spawn-failed",
            Self::ReadyTimeout => "ready-timeout",
            Self::RegistryUnavailable => "registry-unavailable",
            Self::NodeUnreachable => "node-unreachable",
            Self::ShuttingDown => "shutting-down",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden | Self::OriginNotAllowed => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::IdempotencyConflict | Self::AlreadyConnected | Self::NodeUp => 409,
            Self::SpawnEnded => 410,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::HostNotAllowed => 421,
            Self::UpgradeRequired => 426,
            Self::RateLimited | Self::QuotaExceeded => 429,
            Self::Internal => 500,
            Self::SpawnFailed => 502,
            Self::NoCapacity
            | Self::NoMatchingNode
            | Self::RegistryUnavailable
            | Self::NodeUnreachable
            | Self::ShuttingDown => 503,
            Self::ReadyTimeout => 504,
        }
    }

    /// A short summary that is the same for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request is not valid",
            Self::Unauthenticated => "A good credential is needed",
            Self::Forbidden => "The credential is not for this",
            Self::OriginNotAllowed => "Pages of this origin may not do this",
            Self::NotFound => "There is no such thing",
            Self::MethodNotAllowed => "This method is not allowed here",
            Self::IdempotencyConflict => "The idempotency key was used with another body",
            Self::AlreadyConnected => "The spawn has a viewer",
            Self::NodeUp => "The node is up",
            Self::SpawnEnded => "The spawn has ended",
            Self::BodyTooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The body must be JSON",
            Self::HostNotAllowed => "This server is not known by that host name",
            Self::UpgradeRequired => "This route is a WebSocket",
            Self::RateLimited => "The caller calls, or starts spawns, faster than it may",
            Self::QuotaExceeded => "The caller has as many at once as it may have",
            Self::NoCapacity => "Every matching node is full",
            Self::NoMatchingNode => "No node matches the request",
            Self::SpawnFailed => "The stream cache server ended before it was ready",
            Self::ReadyTimeout => "The stream cache server was not ready in time",
            Self::RegistryUnavailable => "The registry cannot be reached",
            Self::NodeUnreachable => "The node's agent cannot be reached",
            Self::ShuttingDown => "This front door is shutting down",
            Self::Internal => "Something went wrong inside Hatchery",
        }
    }
}

/// One node that was tried for a request and did not give a spawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// The node that was tried.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// `spawn-failed` or `ready-timeout` where a process was started; `refused` or `node-unreachable` where none was.
    pub code: String,
    /// Why it gave no spawn, as a sentence for people.
    pub reason: String,
}

/// An error as RFC 9457 `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every occurrence of the code.
    pub title: String,
    /// The HTTP status of the answer, repeated for readers that see the body alone.
    pub status: u16,
    /// What was wrong this time.
    pub detail: String,
    /// The kind of problem, as a word for programs.
    pub code: ErrorCode,
    /// Also in the log and in the `x-request-id` response header.
    pub request_id: String,
    /// The offending field of the request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
    /// With `spawn-failed`: the exit reason or the vendor's text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// With `spawn-failed`: the process's exit code.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<i32>,
    /// With `spawn-failed`: the signal that ended the process.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<String>,
    /// With `spawn-failed` and `ready-timeout`: the last lines the process wrote.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log: Option<Vec<String>>,
    /// With `spawn-failed` and `ready-timeout`: where it happened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeId>,
    /// With `spawn-failed` and `ready-timeout`: the spawn whose record has the whole story.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub spawn: Option<SpawnId>,
    /// With answers of `POST /spawn`: every node that was tried and did not give a spawn, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub attempts: Vec<Attempt>,
    /// With `no-capacity`, `no-matching-node` and, of a spawn, `node-unreachable`: how many nodes could not take the spawn, by reason. `POST /v1/explain` has the
    /// reasons, and says them node by node.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reasons: Option<BTreeMap<String, u32>>,
    /// With `spawn-ended`: how it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit: Option<Exit>,
    /// After this time it is worth trying again; goes as the header `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}
