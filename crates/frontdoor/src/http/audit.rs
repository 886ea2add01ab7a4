//! `GET /v1/audit`: operators' orders, as they were given, and what came of them, page by page from the registry. Needs the scope
//! `operate`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use model::api::{AuditEvent, AuditList};
use model::{NodeId, OrderKind, SpawnId};
use registry::{AuditCursor, AuditFilter};

use super::edge::Edge;
use super::error::ApiError;
use super::extract::Parameters;
use super::problem_sets::ListProblems;
use super::when::When;
use crate::strict_json::Invalid;

/// Orders on a page.
const MAX_PAGE: u32 = 1000;
/// Characters of `by`.
const MAX_BY: usize = 255;

/// Lists operators' orders, newest first: who gave them, when, from where, and what came of them. Orders that were refused are among
/// them. Callers of the scope `operate` give orders, or all callers where none needs a credential.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "nodes",
    params(
        (
            "node" = Option<String>, Query, min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$",
            description = "Only those to this node, or about spawns there",
        ),
        (
            "by" = Option<String>, Query, min_length = 1, max_length = 255,
            description = "Only those of this operator: the name or the id of an API key, or an owner as records have it",
        ),
        ("order" = Option<OrderKind>, Query, description = "Only those of this kind"),
        ("spawn" = Option<String>, Query, format = Uuid, description = "Only those about this spawn"),
        (
            "since" = Option<String>, Query, min_length = 1, max_length = 64,
            description = "Only those that were given at this time or later: in UTC, as `2026-01-31T08:00:00Z`, or how long ago, as `24h`",
        ),
        (
            "until" = Option<String>, Query, min_length = 1, max_length = 64,
            description = "Only those that were given before this time; written as `since`",
        ),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most to list; 100 when left out"),
        ("cursor" = Option<String>, Query, pattern = "^[1-9][0-9]{0,18}-[0-9]{1,19}$", description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, description = "One page", body = AuditList), ListProblems),
)]
pub(crate) async fn list(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<AuditList>, ApiError> {
    let mut parameters = Parameters::of(&uri)?;
    let by = parameters.take::<String>("by")?;
    if let Some(by) = &by {
        let length = by.chars().count();
        if !(1..=MAX_BY).contains(&length) {
            let wants = format!("must have 1 to {MAX_BY} characters, not {length}");
            return Err(Invalid::field("by", wants).into());
        }
    }
    let [since, until] = ["since", "until"].map(|name| parameters.take::<When>(name));
    let (since, until) = (since?, until?);
    let mut filter = AuditFilter {
        node: parameters.take::<NodeId>("node")?,
        by,
        order: parameters.take::<OrderKind>("order")?,
        spawn: parameters.take::<SpawnId>("spawn")?,
        since: None,
        until: None,
        limit: usize::try_from(parameters.number("limit", 100, MAX_PAGE)?).unwrap_or(1),
        cursor: parameters.take::<AuditCursor>("cursor")?,
    };
    parameters.done()?;
    if since.is_some() || until.is_some() {
        let now = edge.registry.now().await?;
        filter.since = since.map(|when| when.moment(now));
        filter.until = until.map(|when| when.moment(now));
    }
    let page = edge.registry.audits(&filter).await?;
    Ok(Json(AuditList {
        audit: page.orders.into_iter().map(|(at, audit)| AuditEvent { at, audit }).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
    }))
}
