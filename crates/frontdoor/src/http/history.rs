//! Counts of each minute, for charts that begin before a page is opened.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use model::api::{History, HistoryMinute};
use model::minute::{MINUTES_KEPT, minute_of};

use super::authorization::Who;
use super::edge::{Edge, Minutes};
use super::error::ApiError;
use super::extract::Parameters;
use super::problem_sets::ListProblems;

/// Counts of the last minutes: spawns that were started, became ready and ended, requests that were refused, and slots. Callers without
/// the scope `operate` see slots alone, where callers need a credential.
#[utoipa::path(
    get,
    path = "/v1/history",
    tag = "nodes",
    params((
        "minutes" = Option<u32>, Query, minimum = 1, maximum = 1440, description = "How many, this one included; 60 when left out",
    )),
    responses((status = 200, description = "What was counted", body = History), ListProblems),
)]
pub(crate) async fn show(
    State(edge): State<Arc<Edge>>,
    who: Who,
    uri: Uri,
) -> Result<Json<History>, ApiError> {
    let mut parameters = Parameters::of(&uri)?;
    let minutes = parameters.number("minutes", 60, MINUTES_KEPT)?;
    parameters.done()?;
    let read = async {
        let now = edge.registry.now().await?;
        Ok(Arc::new(Minutes { now, all: edge.registry.minutes(MINUTES_KEPT).await? }))
    };
    let counted = edge.answers.minutes.get(read).await?;
    let Minutes { now, all } = &*counted;
    let now = *now;
    let first = minute_of(now).saturating_sub(u64::from(minutes - 1));
    let wanted = all.iter().filter(|minute| minute_of(minute.at) >= first);
    // Counts are of all owners together.
    let minutes = match who.only() {
        None => wanted.map(HistoryMinute::whole).collect(),
        Some(_) => wanted.filter_map(HistoryMinute::slots_alone).collect(),
    };
    Ok(Json(History { now, minutes }))
}
