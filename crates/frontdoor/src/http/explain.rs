//! `POST /v1/explain`.
//!
//! What a caller may see: whether and where its own request would be placed (the answer to `POST /spawn` names the node, too), and
//! how many nodes are not chosen for which reason, since refusals say as much. The names of other nodes, their load and why they
//! fail are for callers that may look at nodes.

use std::sync::Arc;

use access::Scope;
use axum::Json;
use axum::extract::{Request, State};
use model::api::{ErrorCode, Explanation, SpawnRequest};
use registry::Foreseen;

use super::authorization::Who;
use super::edge::Edge;
use super::error::ApiError;
use super::extract;
use super::problem_sets::ExplainProblems;
use super::reasons::assessed;
use super::spawn_call;
use crate::spawning::error::{CLOSED, FULL, FULL_OR_UNREACHED, NO_MATCH, UNREACHED};

/// Nodes that an answer lists. All are counted.
const MAX_LISTED: usize = 200;

/// Says what `POST /spawn` with the same body would do now: which node would be chosen and why, and why each other node would not.
/// Reserves nothing, changes nothing, starts nothing.
///
/// Every node counts in `reasons`. At most 200 are listed, the nearest to being chosen first; callers without the scope `read` get
/// the counts and the chosen node alone.
#[utoipa::path(
    post,
    path = "/v1/explain",
    tag = "spawns",
    request_body(content = Option<SpawnRequest>, description = "What would be spawned; at most 64 KiB"),
    responses((status = 200, description = "What would happen", body = Explanation), ExplainProblems),
)]
pub(crate) async fn explain(
    State(edge): State<Arc<Edge>>,
    request: Request,
) -> Result<Json<Explanation>, ApiError> {
    extract::no_parameters(request.uri())?;
    let who = Who::of(request.extensions());
    let order = spawn_call::ordered(&edge, &who, request).await?;
    let foretold = edge.spawner.forecast(&order).await?;
    let assessed = assessed(&edge).await?;
    let sees_nodes = who.has(Scope::Read);
    let most = if sees_nodes { MAX_LISTED } else { 0 };
    let verdicts =
        assessed.verdicts(&order.demand, &foretold.forecast, foretold.placement, &foretold.passed_over, most);
    let (chosen, why, code) = match &foretold.forecast.outcome {
        Foreseen::Slot { node, .. } => {
            let why = verdicts.chosen.filter(|_| sees_nodes);
            (Some(node.clone()), why.unwrap_or_else(|| "a slot is free there".to_owned()), None)
        }
        Foreseen::Full if !foretold.unreached.is_empty() => {
            if edge.snapshot.has_other(&order.demand, &foretold.unreached) {
                (None, FULL_OR_UNREACHED.to_owned(), Some(ErrorCode::NoCapacity))
            } else {
                (None, UNREACHED.to_owned(), Some(ErrorCode::NodeUnreachable))
            }
        }
        Foreseen::Full => (None, FULL.to_owned(), Some(ErrorCode::NoCapacity)),
        Foreseen::NoMatch { known } => {
            let why = if *known { CLOSED } else { NO_MATCH };
            (None, why.to_owned(), Some(ErrorCode::NoMatchingNode))
        }
        Foreseen::OverQuota => {
            let why = "the caller has as many spawns as it may have";
            (None, why.to_owned(), Some(ErrorCode::QuotaExceeded))
        }
    };
    let cause = edge.snapshot.farm_cause().filter(|cause| cause.is_of(&order.demand));
    let why = match cause.filter(|_| chosen.is_some() && sees_nodes) {
        Some(cause) => format!("{why}; starts fail on {} alike: {}", cause.nodes(), cause.reason),
        None => why,
    };
    Ok(Json(Explanation {
        chosen,
        why,
        code,
        reasons: verdicts.reasons,
        nodes: verdicts.nodes,
        unlisted: u32::try_from(verdicts.unlisted).unwrap_or(u32::MAX),
        source: assessed.source,
    }))
}
