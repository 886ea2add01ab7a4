//! Errors as answers. This is the only place that makes them, and the table of what means what:
//!
//! | what happened | code | status |
//! | --- | --- | --- |
//! | the request is wrong, or the agent found its model outside the model directories | `invalid-request` | 400 |
//! | no credential, or one that is not good | `unauthenticated` | 401 |
//! | a good credential that is not for this | `forbidden` | 403 |
//! | a page of an origin that may not do this | `origin-not-allowed` | 403 |
//! | no such route, spawn or node | `not-found` | 404 |
//! | no such method on this route | `method-not-allowed` | 405 |
//! | the idempotency key came with another request | `idempotency-conflict` | 409 |
//! | the spawn has a viewer | `already-connected` | 409 |
//! | the node that is to be forgotten is up | `node-up` | 409 |
//! | the spawn that the idempotency key was answered with has ended | `spawn-ended` | 410 |
//! | the body is over 64 KiB · not JSON | `body-too-large` · `unsupported-media-type` | 413 · 415 |
//! | `Host` names a host that this front door does not know | `host-not-allowed` | 421 |
//! | a plain request where only a WebSocket is of use | `upgrade-required` | 426 |
//! | the caller calls, or starts spawns, faster than it may, or its list has no turn in time | `rate-limited` | 429 |
//! | the caller has as many spawns, calls, live connections or places in line as it may have at once | `quota-exceeded` | 429 |
//! | a handler panicked, or the registry's answer is not understood | `internal` | 500 |
//! | the process could not be started, or ended before it was ready | `spawn-failed` | 502 |
//! | all is full, or the line is too long | `no-capacity` | 503 |
//! | no node matches | `no-matching-node` | 503 |
//! | the registry is away, refuses writes, or lacks for a moment what it knew | `registry-unavailable` | 503 |
//! | only one node could answer, or the nodes left could take a spawn, and cannot be reached | `node-unreachable` | 503 |
//! | this front door is leaving | `shutting-down` | 503 |
//! | not ready in time, or no verdict in time | `ready-timeout` | 504 |

use std::any::Any;
use std::fmt;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::api::{ErrorCode, Problem};
use model::{NodeId, RequestId, SpawnId};
use registry::RegistryError;
use serde::Serialize;
use tracing::{error, info};

use crate::agent_client::{AgentError, outward, word};
use crate::callers::{LimitExceeded, ShareKind};
use crate::spawning::attempts::{cause, explain};
use crate::spawning::error::{Rejection, SpawnError};
use crate::spawning::idempotency::KeyError;
use crate::spawning::rate::RateError;
use crate::strict_json::Invalid;

/// The challenge where a credential was shown that is not good.
pub(super) const INVALID_TOKEN: &str = "Bearer realm=\"hatchery\", error=\"invalid_token\"";
/// The media type of every error.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// An error on its way out. The request's id is filled in where the answer passes the observer.
#[derive(Debug, Clone)]
pub(crate) struct ApiError(pub(crate) Box<Problem>);

impl ApiError {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            kind: format!("urn:hatchery:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
            request_id: String::new(),
            field: None,
            reason: None,
            exit_code: None,
            signal: None,
            log: None,
            node: None,
            spawn: None,
            attempts: Vec::new(),
            reasons: None,
            exit: None,
            retry_after: None,
        }))
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, detail)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            ErrorCode::MethodNotAllowed,
            "this method is not allowed here; `Allow` lists those that are",
        )
    }

    pub(crate) fn leaving() -> Self {
        Self::new(ErrorCode::ShuttingDown, "this front door is shutting down; ask again")
    }

    /// The credential was good when the request came.
    pub(crate) fn revoked() -> Self {
        Self::new(ErrorCode::Unauthenticated, "the credential is not valid any more")
    }

    fn of_spawn(code: ErrorCode, detail: String, node: NodeId, spawn: SpawnId) -> Self {
        let mut error = Self::new(code, detail);
        error.0.node = Some(node);
        error.0.spawn = Some(spawn);
        error
    }
}

impl IntoResponse for ApiError {
    /// Leaves the problem with the answer; [`render`] writes the body.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        if self.0.code == ErrorCode::Unauthenticated {
            let challenge = HeaderValue::from_static(INVALID_TOKEN);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// What was asked for may exist all the same.
pub(super) fn refilling() -> ApiError {
    ApiError::new(
        ErrorCode::RegistryUnavailable,
        "the registry was wiped or has just come back, and agents have not reported everything to it yet; ask again",
    )
}

/// Writes an error's body and the headers that go with it.
pub(crate) fn render(mut error: ApiError, request: &RequestId, response: &mut Response) {
    request.as_str().clone_into(&mut error.0.request_id);
    let body = match response.extensions_mut().remove::<Members>() {
        None => serde_json::to_vec(&error.0),
        Some(Members(members)) => serde_json::to_vec(&Extended { problem: &error.0, members }),
    }
    .unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if matches!(error.0.status, 429 | 503) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after(&error)));
    }
    *response.body_mut() = Body::from(body);
}

/// Seconds: as long as it takes where that is known, else jittered, so that callers do not all come back at once.
pub(super) fn retry_after(error: &ApiError) -> u64 {
    match error.0.retry_after {
        Some(wait) => (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1),
        None => fastrand::u64(1..=5),
    }
}

/// Members that a problem has beyond those all problems have, left with the answer as the problem is.
#[derive(Debug, Clone)]
pub(crate) struct Members(pub(crate) serde_json::Value);

#[derive(Serialize)]
struct Extended<'a> {
    #[serde(flatten)]
    problem: &'a Problem,
    #[serde(flatten)]
    members: serde_json::Value,
}

/// Answers for a handler that panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands the cause over like this")]
pub(crate) fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("something without words");
    error!(panic = text, "handler panicked");
    ApiError::new(ErrorCode::Internal, "internal error; the server log has details under this request's id")
        .into_response()
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        let mut error = Self::new(ErrorCode::InvalidRequest, invalid.detail);
        error.0.field = invalid.field;
        error
    }
}

impl From<RegistryError> for ApiError {
    /// An answer that is not understood is a defect of Hatchery, and no outage.
    fn from(error: RegistryError) -> Self {
        let code = match error {
            RegistryError::Away(_) => ErrorCode::RegistryUnavailable,
            RegistryError::Unexpected { .. } => ErrorCode::Internal,
        };
        // Addresses and the server's own words are for the log, which has the request's id beside them.
        info!(%error, "the registry could not answer");
        Self::new(code, error.outward())
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let mut error = Self::from(rejection.error);
        if matches!(error.0.status, 502..=504) {
            error.0.attempts = rejection.attempts;
        }
        error
    }
}

impl From<RateError> for ApiError {
    fn from(refused: RateError) -> Self {
        match refused {
            RateError::TooSoon { per_minute, wait } => {
                let detail = format!("{per_minute} spawns a minute are the most this caller may start");
                let mut error = Self::new(ErrorCode::RateLimited, detail);
                error.0.retry_after = Some(wait);
                error
            }
            RateError::Registry(error) => error.into(),
        }
    }
}

impl From<LimitExceeded> for ApiError {
    fn from(refused: LimitExceeded) -> Self {
        match refused {
            LimitExceeded::TooFast { per_second, wait } => {
                let detail = format!("{per_second} calls a second are the most this caller may make");
                let mut error = Self::new(ErrorCode::RateLimited, detail);
                error.0.retry_after = Some(wait);
                error
            }
            LimitExceeded::NoTurn { wait } => {
                let detail = "too many lists are being read for this caller, or for all together; ask again";
                let mut error = Self::new(ErrorCode::RateLimited, detail);
                error.0.retry_after = wait;
                error
            }
            LimitExceeded::TooMany { kind, max } => {
                let what = match kind {
                    ShareKind::Call => "calls under way",
                    ShareKind::Connection => "connections",
                    ShareKind::Live => "live connections",
                    ShareKind::Subscription => "subscriptions",
                    ShareKind::Waiting => "requests in line",
                };
                let detail = format!("{max} {what} at once are the most this caller may have here");
                Self::new(ErrorCode::QuotaExceeded, detail)
            }
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Conflict => Self::new(
                ErrorCode::IdempotencyConflict,
                "this Idempotency-Key came with another request before; use a new key for a new request",
            ),
            KeyError::StillRunning => Self::new(
                ErrorCode::ReadyTimeout,
                "the request with this Idempotency-Key has not been answered in time",
            ),
            KeyError::Unreadable => Self::new(
                ErrorCode::Internal,
                "this Idempotency-Key has an answer that this version of Hatchery cannot read",
            ),
            KeyError::SpawnEnded { node, spawn, exit } => {
                let detail = format!(
                    "the spawn that this Idempotency-Key was answered with has ended ({}); use a new key for a new one",
                    exit.reason
                );
                let mut error = Self::of_spawn(ErrorCode::SpawnEnded, detail, node, spawn);
                error.0.exit = Some(*exit);
                error
            }
            KeyError::Registry(error) => error.into(),
        }
    }
}

impl From<SpawnError> for ApiError {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::NoCapacity { why } => Self::new(ErrorCode::NoCapacity, why),
            SpawnError::OverQuota { max } => Self::new(
                ErrorCode::QuotaExceeded,
                format!(
                    "{max} spawns at once are the most this caller may have; end one, or wait until one has ended"
                ),
            ),
            SpawnError::LimitExceeded(limit) => limit.into(),
            SpawnError::NoMatchingNode { why } => Self::new(ErrorCode::NoMatchingNode, why),
            SpawnError::Unreachable { node, why } => {
                let mut error = Self::new(ErrorCode::NodeUnreachable, why);
                error.0.node = Some(node);
                error
            }
            SpawnError::Registry(error) => error.into(),
            SpawnError::BadModel { why } => Invalid::field("model", why).into(),
            SpawnError::CannotStart { node, spawn, why } => {
                let detail = format!("the stream cache server could not be started on {node}: {why}");
                let mut error = Self::of_spawn(ErrorCode::SpawnFailed, detail, node, spawn);
                // Nothing was started, so there is no record to look at.
                error.0.spawn = None;
                error.0.reason = Some(why);
                error.0.log = Some(Vec::new());
                error
            }
            SpawnError::NotReady { node, spawn, log } => {
                let detail = format!("the spawn on {node} was not ready in time and was ended");
                let mut error = Self::of_spawn(ErrorCode::ReadyTimeout, detail, node, spawn);
                error.0.reason = Some(model::ExitReason::ReadyTimeout.as_str().to_owned());
                error.0.log = log;
                error
            }
            SpawnError::Failed { node, spawn, exit, log } => {
                let (reason, how) = (cause(&exit), explain(&exit));
                let detail = format!("the stream cache server on {node} ended before it was ready: {how}");
                let mut error = Self::of_spawn(ErrorCode::SpawnFailed, detail, node, spawn);
                error.0.reason = Some(reason);
                error.0.exit_code = exit.code;
                error.0.signal = exit.signal;
                error.0.log = Some(log);
                error
            }
        }
    }
}

/// The one node that could answer did not.
pub(crate) fn unreachable(node: &NodeId, error: &AgentError) -> ApiError {
    info!(node.id = %node, %error, "the agent could not answer");
    let why = match error {
        AgentError::NotSent { why, .. } | AgentError::Unknown { why, .. } => outward(why),
        AgentError::Refused { reason, .. } => word(*reason).into(),
    };
    let detail = format!("the agent on {node} did not answer: {why}");
    let mut problem = ApiError::new(ErrorCode::NodeUnreachable, detail);
    problem.0.node = Some(node.clone());
    problem
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.0.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_registry_that_is_not_understood_is_a_defect_and_no_outage() {
        let away = ApiError::from(RegistryError::late("late"));
        assert_eq!((away.0.status, away.0.code), (503, ErrorCode::RegistryUnavailable));
        let unexpected = RegistryError::Unexpected { call: "reserve", what: "a list".into() };
        let defect = ApiError::from(SpawnError::Registry(unexpected));
        assert_eq!((defect.0.status, defect.0.code), (500, ErrorCode::Internal));
    }

    #[test]
    fn attempts_are_listed_where_the_farm_failed_and_not_where_the_caller_did() {
        let attempt = model::api::Attempt {
            node: "a".parse().unwrap(),
            code: "refused".into(),
            reason: "too little free memory".into(),
        };
        let of = |error| {
            ApiError::from(Rejection { error, attempts: vec![attempt.clone()], passed_over: Vec::new() })
                .0
                .attempts
                .len()
        };
        let (node, spawn) = ("a".parse::<NodeId>().unwrap(), SpawnId::mint());
        assert_eq!(of(SpawnError::NoCapacity { why: String::new() }), 1);
        assert_eq!(of(SpawnError::NotReady { node: node.clone(), spawn, log: None }), 1);
        assert_eq!(of(SpawnError::CannotStart { node, spawn, why: String::new() }), 1);
        assert_eq!(of(SpawnError::Registry(RegistryError::late("late"))), 1);
        assert_eq!(of(SpawnError::BadModel { why: String::new() }), 0);
        assert_eq!(of(SpawnError::OverQuota { max: 1 }), 0);
    }
}
