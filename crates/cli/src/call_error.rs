//! Why a call to a front door has no good answer: the text for people, the exit code for scripts, the word that a load generator counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use model::api::{Attempt, Problem};

use crate::exit::Exit;
use crate::server::Server;

/// Why a call has no good answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nothing listens there, or the name does not resolve.
    Unreachable { server: Server, why: String },
    /// The connection broke before the whole answer was here.
    Broken { server: Server, why: String },
    /// No answer in time.
    TimedOut { server: Server, after: Duration },
    /// The front door refused, and said why.
    Refused { problem: Box<Problem>, json: Bytes },
    /// An error that is not in the form of a front door of this version.
    Odd { server: Server, status: StatusCode, json: Option<Bytes>, detail: Option<String> },
    /// A good answer that cannot be read.
    Unreadable { server: Server, why: String },
}

impl CallError {
    /// The exit code for scripts.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Unreadable { .. } => Exit::Failed,
            Self::TimedOut { .. } => Exit::TimedOut,
            Self::Refused { problem, .. } => Exit::of(problem.code),
            Self::Odd { status, .. } => match *status {
                StatusCode::GATEWAY_TIMEOUT => Exit::TimedOut,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                    Exit::Refused
                }
                _ => Exit::Failed,
            },
        }
    }

    /// Whether the credential is missing or not accepted.
    pub(crate) fn is_unauthenticated(&self) -> bool {
        match self {
            Self::Refused { problem, .. } => problem.status == StatusCode::UNAUTHORIZED.as_u16(),
            Self::Odd { status, .. } => *status == StatusCode::UNAUTHORIZED,
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::Unreadable { .. } => false,
        }
    }

    /// The word under which a load generator counts it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Broken { .. } => "connection-lost",
            Self::TimedOut { .. } => "timed-out",
            Self::Refused { problem, .. } => problem.code.as_str(),
            Self::Odd { .. } | Self::Unreadable { .. } => "unexpected-answer",
        }
    }

    /// The problem as the front door wrote it.
    pub(crate) fn problem_json(&self) -> Option<&Bytes> {
        match self {
            Self::Refused { json, .. } => Some(json),
            Self::Odd { json, .. } => json.as_ref(),
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::Unreadable { .. } => None,
        }
    }

    /// The last lines of the process that failed.
    pub(crate) fn log(&self) -> &[String] {
        match self {
            Self::Refused { problem, .. } => problem.log.as_deref().unwrap_or_default(),
            _ => &[],
        }
    }

    /// The nodes that were tried for it.
    pub(crate) fn attempts(&self) -> &[Attempt] {
        match self {
            Self::Refused { problem, .. } => &problem.attempts,
            _ => &[],
        }
    }

    /// How many nodes could not take it, by reason.
    pub(crate) fn reasons(&self) -> Option<&BTreeMap<String, u32>> {
        match self {
            Self::Refused { problem, .. } => problem.reasons.as_ref().filter(|reasons| !reasons.is_empty()),
            _ => None,
        }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable { server, why } => {
                write!(f, "cannot reach {server}: {why} (--server or HATCHERY_SERVER names the front door)")
            }
            Self::Broken { server, why } => {
                write!(f, "the connection to {server} broke before it had answered: {why}")
            }
            Self::TimedOut { server, after } => {
                write!(f, "{server} did not answer within {}", humantime::format_duration(*after))
            }
            Self::Refused { problem, .. } => {
                let detail = problem.detail.trim().trim_end_matches('.');
                f.write_str(if detail.is_empty() { &problem.title } else { detail })?;
                write!(f, " ({}", problem.code.as_str())?;
                if let Some(node) = &problem.node {
                    write!(f, ", node {node}")?;
                }
                if let Some(spawn) = &problem.spawn {
                    write!(f, ", spawn {spawn}")?;
                }
                write!(f, ", request {})", problem.request_id)
            }
            Self::Odd { server, status, detail, .. } => {
                write!(f, "{server} answered {status}")?;
                match detail {
                    Some(detail) => write!(f, ": {detail}"),
                    None => f.write_str(", which is not how a front door says it"),
                }
            }
            Self::Unreadable { server, why } => {
                write!(f, "{server} answered something this version cannot read: {why}")
            }
        }
    }
}

/// What an answer with an error status says.
pub(crate) fn refusal(server: &Server, status: StatusCode, body: Bytes) -> CallError {
    if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
        return CallError::Refused { problem: Box::new(problem), json: body };
    }
    // A newer front door may have codes this version does not know.
    let value: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let text = |field: &str| value.as_ref()?.get(field)?.as_str().map(str::to_owned);
    let detail = text("detail").or_else(|| text("title")).map(|mut detail| {
        if let (Some(code), Some(id)) = (text("code"), text("requestId")) {
            write!(detail, " ({code}, request {id})").ok();
        }
        detail
    });
    let json = detail.is_some().then_some(body);
    CallError::Odd { server: server.clone(), status, json, detail }
}
