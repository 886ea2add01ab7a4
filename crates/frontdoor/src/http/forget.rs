//! `DELETE /v1/nodes/{node}`: forgets a node that will not come back. It is an operator's order with a record; a node that is up is
//! refused by the registry.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use model::api::{ErrorCode, ForgetAnswer};
use registry::Forgotten;

use super::edge::Edge;
use super::error::ApiError;
use super::extract::{self, Name};
use super::nodes;
use super::problem_sets::ForgetProblems;

/// Removes a node that will not come back. Its slots go, and its spawns end with the reason `node-lost`. A node that is up is not
/// removed. One that comes back all the same registers again, with what it still runs.
#[utoipa::path(
    delete,
    path = "/v1/nodes/{node}",
    tag = "nodes",
    params(("node" = String, Path, description = "The node's name")),
    responses((status = 200, description = "The node is not known any more", body = ForgetAnswer), ForgetProblems),
)]
pub(crate) async fn forget(
    State(edge): State<Arc<Edge>>,
    Name(name): Name,
    request: Request,
) -> Result<Json<ForgetAnswer>, ApiError> {
    extract::no_parameters(request.uri())?;
    let given = edge.given(request.extensions());
    let node = nodes::id(&name)?;
    match edge.operations.forget(node.clone(), given).await? {
        Forgotten::Gone { ended } => Ok(Json(ForgetAnswer { node, ended })),
        Forgotten::Up => {
            let detail = format!("{node} is up, and would register again at once; stop its agent first");
            Err(ApiError::new(ErrorCode::NodeUp, detail))
        }
        Forgotten::Unknown => Err(nodes::unknown(&name)),
    }
}
