//! Health and metrics, for those who watch the agent.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::node::Node;
use crate::table::Door;

pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

/// Whether spawns are let in. The registry being away does not keep them out, it is only told.
async fn ready(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let (door, (eligibility, _)) = {
        let table = node.table();
        (table.door(), table.eligibility())
    };
    let (status, door) = match door {
        Door::Open => (StatusCode::OK, "open"),
        Door::ShuttingDown | Door::Emptying => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        Door::Superseded => (StatusCode::SERVICE_UNAVAILABLE, "superseded"),
    };
    let registry = if node.registry_up() { "up" } else { "away" };
    let body = json!({
        "ready": status == StatusCode::OK,
        "admission": door,
        "eligibility": eligibility,
        "registry": registry,
    });
    (status, Json(body))
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let usage = node.table().usage();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], node.metrics.text(&usage))
}
