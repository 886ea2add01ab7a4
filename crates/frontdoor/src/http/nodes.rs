//! `GET /v1/nodes`, and one of them: nodes, as operators see them, read from the registry. Callers that ask for the list at the same
//! time share one reading.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use model::NodeId;
use model::api::{ErrorCode, Node, NodeList};

use super::edge::Edge;
use super::error::ApiError;
use super::extract::{Name, no_parameters};
use super::problem_sets::{ListProblems, OneProblems};

/// Lists all nodes, by name.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    tag = "nodes",
    responses((status = 200, description = "All nodes", body = NodeList), ListProblems),
)]
pub(crate) async fn list(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Response, ApiError> {
    no_parameters(&uri)?;
    let json = edge.answers.nodes.get(read_all(&edge)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// All nodes as the answer's body: one for all callers that ask at the same time.
async fn read_all(edge: &Edge) -> Result<Bytes, ApiError> {
    let nodes = edge.registry.nodes().await?.into_iter().map(Node::from).collect();
    // The list is worth more than the cause: what is known of it will do.
    let farm_cause = match edge.registry.farm_cause().await {
        Ok(cause) => cause,
        Err(_) => edge.snapshot.farm_cause(),
    };
    let json = serde_json::to_vec(&NodeList { nodes, farm_cause });
    json.map(Bytes::from).map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}

/// Shows one node.
#[utoipa::path(
    get,
    path = "/v1/nodes/{node}",
    tag = "nodes",
    params(("node" = String, Path, description = "The node's name")),
    responses((status = 200, description = "The node", body = Node), OneProblems),
)]
pub(crate) async fn show(
    State(edge): State<Arc<Edge>>,
    Name(name): Name,
    uri: Uri,
) -> Result<Json<Node>, ApiError> {
    no_parameters(&uri)?;
    let id = id(&name)?;
    edge.registry.node(&id).await?.map(|node| Json(node.into())).ok_or_else(|| unknown(&name))
}

/// What cannot be a name is not the name of a node.
pub(super) fn id(name: &str) -> Result<NodeId, ApiError> {
    name.parse().map_err(|_| unknown(name))
}

pub(super) fn unknown(name: &str) -> ApiError {
    let name: String = name.chars().take(100).collect();
    ApiError::not_found(format!("there is no node {name:?}"))
}
