//! Probes and metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use model::api::ErrorCode;
use registry::RegistryError;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::error::{ApiError, Members};
use super::openapi::{NoProblems, ReadyProblems};
use crate::door::Door;

/// A registry that takes longer than this is of no use to requests either.
const PROBE: Duration = Duration::from_secs(1);

/// The process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    #[schema(examples("ok"))]
    status: &'static str,
}

/// Whether requests can be served, and what they depend on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready`.
    #[schema(examples("ready"))]
    status: &'static str,
    dependencies: Dependencies,
}

/// What requests depend on. Also an extension member of the problem that says that this front door is not ready.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Dependencies {
    registry: RegistryState,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RegistryState {
    /// `up` or `away`.
    #[schema(examples("up"))]
    state: &'static str,
    /// `redis` or `embedded`.
    #[schema(examples("redis"))]
    backend: &'static str,
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

/// Says whether requests can be served, with the state of each dependency.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "probes",
    responses((status = 200, description = "Requests can be served", body = Readiness), ReadyProblems),
)]
pub(crate) async fn readyz(State(door): State<Arc<Door>>) -> Response {
    let answer = timeout(PROBE, door.registry.ping()).await;
    let answer = answer.unwrap_or_else(|_| Err(RegistryError::Away(format!("no answer within {PROBE:?}"))));
    let detail = answer.as_ref().err().map(ToString::to_string);
    let state = if detail.is_none() { "up" } else { "away" };
    let dependencies =
        Dependencies { registry: RegistryState { state, backend: door.registry.backend(), detail } };
    let problem = match answer {
        Err(error) => ApiError::from(error),
        Ok(()) if door.stages.leaving.is_cancelled() => ApiError::leaving(),
        Ok(()) => return Json(Readiness { status: "ready", dependencies }).into_response(),
    };
    let mut response = problem.into_response();
    response.extensions_mut().insert(Members(serde_json::json!({ "dependencies": dependencies })));
    response
}

/// Figures for Prometheus, on the admin port only.
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
pub(crate) async fn metrics(State(door): State<Arc<Door>>) -> Result<Response, ApiError> {
    let text = door.metrics.text().map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
