//! What operators do with nodes: `POST …/cordon`, `…/uncordon`, `…/drain`. Reads the request and shows the answer; the order itself
//! and its record are [`crate::operations`]'.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use model::api::{CordonRequest, DrainRequest, EligibilityAnswer};

use super::edge::Edge;
use super::error::ApiError;
use super::extract::{self, Name};
use super::nodes;
use super::problem_sets::OperateProblems;
use crate::operations::{DrainOrder, Operation, cordon_reason, nothing};

/// Closes a node to new spawns; those that run stay. A node that is being drained is cordoned instead: what runs there
/// may stay after all.
#[utoipa::path(
    post,
    path = "/v1/nodes/{node}/cordon",
    tag = "nodes",
    request_body(content = Option<CordonRequest>, description = "Why; at most 64 KiB"),
    params(("node" = String, Path, description = "The node's name")),
    responses((status = 200, description = "From now on nothing new starts there", body = EligibilityAnswer), OperateProblems),
)]
pub(crate) async fn cordon(
    State(edge): State<Arc<Edge>>,
    Name(name): Name,
    request: Request,
) -> Result<Json<EligibilityAnswer>, ApiError> {
    ask(&edge, &name, request, |body| cordon_reason(body).map(|reason| Operation::Cordon { reason })).await
}

/// Opens a node to new spawns again; undoes a cordon and a drain.
#[utoipa::path(
    post,
    path = "/v1/nodes/{node}/uncordon",
    tag = "nodes",
    params(("node" = String, Path, description = "The node's name")),
    responses((status = 200, description = "New spawns are welcome there", body = EligibilityAnswer), OperateProblems),
)]
pub(crate) async fn uncordon(
    State(edge): State<Arc<Edge>>,
    Name(name): Name,
    request: Request,
) -> Result<Json<EligibilityAnswer>, ApiError> {
    ask(&edge, &name, request, |body| nothing(body).map(|()| Operation::Uncordon)).await
}

/// Empties a node: nothing new starts there once this has answered; what runs there ends by itself, or at the deadline.
/// Repeated, it replaces deadline and reason. `GET /v1/nodes/{node}` shows how far it has come.
#[utoipa::path(
    post,
    path = "/v1/nodes/{node}/drain",
    tag = "nodes",
    request_body(content = Option<DrainRequest>, description = "How to drain it; at most 64 KiB"),
    params(("node" = String, Path, description = "The node's name")),
    responses((status = 200, description = "From now on nothing new starts there", body = EligibilityAnswer), OperateProblems),
)]
pub(crate) async fn drain(
    State(edge): State<Arc<Edge>>,
    Name(name): Name,
    request: Request,
) -> Result<Json<EligibilityAnswer>, ApiError> {
    ask(&edge, &name, request, |body| DrainOrder::parse(body).map(Operation::Drain)).await
}

async fn ask(
    edge: &Arc<Edge>,
    name: &str,
    request: Request,
    understand: impl FnOnce(&[u8]) -> Result<Operation, crate::strict_json::Invalid>,
) -> Result<Json<EligibilityAnswer>, ApiError> {
    extract::no_parameters(request.uri())?;
    let given = edge.given(request.extensions());
    let operation = understand(&extract::body(request).await?)?;
    let node = nodes::id(name)?;
    let answer = edge.operations.operate(node, operation, given).await?;
    answer.map(Json).ok_or_else(|| nodes::unknown(name))
}
