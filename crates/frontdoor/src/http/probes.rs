//! Probes and metrics: `/healthz`, `/readyz`, `/metrics`. Readiness asks the registry, within a second, and says each dependency's
//! state. A front door that can still place spawns from its snapshot is `degraded` and answers 200.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use model::Timestamp;
use model::api::ErrorCode;
use registry::RegistryError;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::edge::Edge;
use super::error::{ApiError, Members};
use super::problem_sets::{NoProblems, ReadyProblems};
use super::warnings::warnings;
use crate::settings::OwnNode;

/// A registry that takes longer than this is of no use to requests either.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    #[schema(examples("ok"))]
    status: &'static str,
}

/// Whether requests can be served, and what they depend on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready`, or `degraded` while spawns go on without the registry, or keys are refused because their file cannot be read.
    #[schema(examples("ready"))]
    status: &'static str,
    dependencies: Dependencies,
    /// What an operator should change, in words; left out when there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// What requests depend on. Also an extension member of the problem that says that this front door is not ready.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Dependencies {
    /// Left out by the relay of a node that was given its agent: it asks no registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<RegistryState>,
    /// The agent of the node, at the relay of a node alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentState>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RegistryState {
    /// `up` or `away`.
    #[schema(examples("up"))]
    state: &'static str,
    /// `redis` or `embedded`.
    #[schema(examples("redis"))]
    backend: &'static str,
    /// Since when it is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Why it is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct AgentState {
    /// `up` or `away`.
    #[schema(examples("up"))]
    state: &'static str,
    /// Why it is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Says that the process is alive.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "probes",
    responses((status = 200, description = "The process is alive", body = Alive), NoProblems),
)]
pub(crate) async fn healthz() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

pub(crate) struct Checked {
    /// `ready` or `degraded`, or why no request can be served.
    pub(crate) outcome: Result<&'static str, ApiError>,
    pub(crate) warnings: Vec<String>,
    dependencies: Dependencies,
}

/// Says whether requests can be served, with the state of each dependency. While the registry is away, a front door that
/// has a snapshot of the farm is `degraded`: it serves spawns without an `Idempotency-Key`.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "probes",
    responses((status = 200, description = "Requests can be served", body = Readiness), ReadyProblems),
)]
pub(crate) async fn readyz(State(edge): State<Arc<Edge>>) -> Response {
    let Checked { outcome, dependencies, warnings } = check(&edge).await;
    match outcome {
        Ok(status) => Json(Readiness { status, dependencies, warnings }).into_response(),
        Err(problem) => {
            let mut response = problem.into_response();
            response
                .extensions_mut()
                .insert(Members(serde_json::json!({ "dependencies": dependencies, "warnings": warnings })));
            response
        }
    }
}

/// Looks whether requests can be served.
pub(crate) async fn check(edge: &Edge) -> Checked {
    let ask = async {
        let answer = timeout(CHECK_TIMEOUT, edge.registry.is_well()).await;
        answer.unwrap_or_else(|_| Err(RegistryError::late(format!("no answer within {CHECK_TIMEOUT:?}"))))
    };
    // Probes that come together are one to the registry.
    let answer = edge.answers.registry_check.get(ask).await;
    let own_node = edge.config.viewers.own_node.as_ref();
    let registry = own_node.is_none_or(OwnNode::asks_registry).then(|| RegistryState {
        state: if answer.is_ok() { "up" } else { "away" },
        backend: edge.registry.backend(),
        since: edge.registry.away_since().filter(|_| answer.is_err()),
        detail: answer.as_ref().err().map(RegistryError::outward),
    });
    let own_agent = edge.viewers.check_own_agent(CHECK_TIMEOUT).await;
    let agent = own_agent.clone().map(|checked| AgentState {
        state: if checked.is_ok() { "up" } else { "away" },
        detail: checked.err(),
    });
    let mut warnings = warnings(edge);
    let unread =
        edge.authenticator.as_ref().map(|authenticator| authenticator.access().unread()).unwrap_or_default();
    warnings.extend(unread.iter().map(|file| unread_warning(*file)));
    let refuses_keys = unread.iter().any(|file| file.refused);
    let outcome = match (own_agent, answer) {
        _ if edge.stages.leaving.is_cancelled() => Err(ApiError::leaving()),
        // No viewer gets in without it.
        (Some(Err(why)), _) => {
            Err(ApiError::new(ErrorCode::NodeUnreachable, format!("the agent of this node: {why}")))
        }
        (_, Ok(())) => Ok(if refuses_keys { "degraded" } else { "ready" }),
        (Some(Ok(())), Err(_)) => Ok("degraded"),
        (None, Err(RegistryError::Away(_))) if edge.snapshot.serves() => Ok("degraded"),
        // Also an answer that is not understood: this front door is of no use now.
        (None, Err(error)) => Err(ApiError::new(ErrorCode::RegistryUnavailable, error.outward())),
    };
    Checked { outcome, dependencies: Dependencies { registry, agent }, warnings }
}

/// Its path and what is wrong with it are in the log.
fn unread_warning(file: access::Unread) -> String {
    let flag = file.flag;
    if file.refused {
        format!("a file of {flag} cannot be read: its keys are refused until it can")
    } else {
        let grace = access::GRACE.as_secs();
        format!("a file of {flag} cannot be read: its keys are refused once that has lasted for {grace} s")
    }
}

/// Metrics for Prometheus, on the admin port only.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "probes",
    responses(
        (status = 200, description = "Served on `--admin-listen` only", body = String,
         content_type = "application/openmetrics-text"),
        NoProblems,
    ),
)]
pub(crate) async fn metrics(State(edge): State<Arc<Edge>>, headers: HeaderMap) -> Result<Response, ApiError> {
    if let Some(authenticator) = &edge.authenticator {
        edge.metrics.authentication.key_files(authenticator.access());
    }
    let text = edge.metrics.text().map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    let text = traces::for_scraper(text, headers.get(header::ACCEPT).map(HeaderValue::as_bytes));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
