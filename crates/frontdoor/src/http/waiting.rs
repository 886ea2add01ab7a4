//! `GET /v1/waiting`: the line, who waits for what, since when, and at which position. A reading of the registry: by the time it
//! arrives places have moved.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use model::api::{Waiting, WaitingList};

use super::authorization::Who;
use super::edge::Edge;
use super::error::ApiError;
use super::extract::Parameters;
use super::problem_sets::ListProblems;
use crate::callers::OwnerNames;

/// Waiters on a page.
const MAX_PAGE: u32 = 1000;

/// Lists who waits in line, the first ones first.
#[utoipa::path(
    get,
    path = "/v1/waiting",
    tag = "spawns",
    params((
        "limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most to list; 100 when left out",
    )),
    responses((status = 200, description = "The first in line", body = WaitingList), ListProblems),
)]
pub(crate) async fn list(
    State(edge): State<Arc<Edge>>,
    who: Who,
    uri: Uri,
) -> Result<Json<WaitingList>, ApiError> {
    let mut parameters = Parameters::of(&uri)?;
    let limit = usize::try_from(parameters.number("limit", 100, MAX_PAGE)?).unwrap_or(1);
    parameters.done()?;
    let read = async { Ok(Arc::new(edge.registry.waiting().await?)) };
    let line = edge.answers.waiting.get(read).await?;
    let seen =
        line.iter().filter(|waiting| who.only().is_none_or(|owner| waiting.owner.as_ref() == Some(owner)));
    let total = seen.clone().count();
    Ok(Json(WaitingList {
        waiting: seen.take(limit).map(|waiting| shown(waiting, &edge.names)).collect(),
        total: u64::try_from(total).unwrap_or(u64::MAX),
    }))
}

fn shown(waiting: &registry::WaitingRequest, names: &OwnerNames) -> Waiting {
    let demand = waiting.demand.as_ref();
    Waiting {
        position: waiting.position,
        since: waiting.since,
        renderer_type: demand.map(|demand| demand.renderer),
        pool: demand.and_then(|demand| demand.pool.clone()),
        labels: demand.map(|demand| demand.labels.clone()).unwrap_or_default(),
        owner: waiting.owner.as_ref().map(|owner| names.shown(owner)),
    }
}
