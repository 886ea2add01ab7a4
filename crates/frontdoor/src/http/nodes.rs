//! `GET /v1/nodes`, and one of them: nodes, as operators see them, read from the registry. Callers that ask for the list at the same
//! time share one reading.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use model::api::{ErrorCode, Node, NodeList};
use model::{Availability, Eligibility, FarmCause, HealthState, NodeId, NodeRecord};
use registry::{NodeFilter, NodePage};

use super::edge::Edge;
use super::error::ApiError;
use super::extract::{Name, Parameters, no_parameters};
use super::list_turns;
use super::problem_sets::{ListProblems, OneProblems};
use crate::callers::Account;
use crate::strict_json::Invalid;

/// Nodes on a page.
const MAX_PAGE: u32 = 1000;
/// Labels of a filter.
const MAX_LABELS: usize = 16;

/// Lists nodes, by name: all of them, or with any parameter page by page.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    tag = "nodes",
    params(
        ("pool" = Option<String>, Query, min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$", description = "Only those of this pool"),
        (
            "label" = Option<Vec<String>>, Query,
            description = "Only those with this label, `key=value`; may be repeated, all must hold",
        ),
        ("availability" = Option<Availability>, Query, description = "Only those that are so"),
        ("eligibility" = Option<Eligibility>, Query, description = "Only those that are so"),
        ("health" = Option<HealthState>, Query, description = "Only those that are so"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most to list; 100 when left out"),
        (
            "cursor" = Option<String>, Query, min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$",
            description = "`nextCursor` of the page before",
        ),
    ),
    responses((status = 200, description = "All nodes, or one page", body = NodeList), ListProblems),
)]
pub(crate) async fn list(
    State(edge): State<Arc<Edge>>,
    account: Option<Extension<Arc<Account>>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    if uri.query().is_some_and(|query| !query.is_empty()) {
        let account = account.as_ref().map(|account| &*account.0);
        return page(&edge, account, Parameters::of(&uri)?).await.map(|list| Json(list).into_response());
    }
    let json = edge.answers.nodes.get(read_all(&edge)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

async fn page(
    edge: &Edge,
    account: Option<&Account>,
    mut parameters: Parameters,
) -> Result<NodeList, ApiError> {
    let pool = parameters.take::<String>("pool")?;
    if let Some(pool) = &pool {
        model::id::check_name(pool).map_err(|why| Invalid::field("pool", why.to_string()))?;
    }
    let filter = NodeFilter {
        pool,
        labels: parameters.all::<Label>("label", MAX_LABELS)?.into_iter().map(|Label(pair)| pair).collect(),
        availability: parameters.take::<Availability>("availability")?,
        eligibility: parameters.take::<Eligibility>("eligibility")?,
        health: parameters.take::<HealthState>("health")?,
        limit: usize::try_from(parameters.number("limit", 100, MAX_PAGE)?).unwrap_or(1),
        cursor: parameters.take::<NodeId>("cursor")?,
    };
    parameters.done()?;
    // Any page needs the names of all nodes.
    let looked_at = |page: &NodePage| page.looked_at.max(list_turns::SHORT);
    let list = edge.registry.nodes_page(&filter);
    let page = edge.list_turns.read(account, true, list, looked_at).await?;
    Ok(NodeList {
        nodes: page.nodes.into_iter().map(|node| seen(edge, node)).collect(),
        farm_cause: farm_cause(edge).await,
        next_cursor: page.next.map(|node| node.to_string()),
    })
}

/// `key=value`, as nodes carry it.
struct Label((String, String));

impl std::str::FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        model::node::parse_label(text).map(Self)
    }
}

/// The list is worth more than the cause: what is known of it will do.
async fn farm_cause(edge: &Edge) -> Option<FarmCause> {
    match edge.registry.farm_cause().await {
        Ok(cause) => cause,
        Err(_) => edge.snapshot.farm_cause(),
    }
}

/// A node, with what this front door knows of the way to its agent.
fn seen(edge: &Edge, record: NodeRecord) -> Node {
    let is_up = record.availability == Availability::Up;
    let unreachable = is_up.then(|| edge.agents.unreached(&record.id)).flatten();
    Node { unreachable, ..edge.names.node(record) }
}

/// All nodes as the answer's body: one for all callers that ask at the same time.
async fn read_all(edge: &Edge) -> Result<Bytes, ApiError> {
    let nodes = edge.registry.nodes().await?.into_iter().map(|node| seen(edge, node)).collect();
    let farm_cause = farm_cause(edge).await;
    let json = serde_json::to_vec(&NodeList { nodes, farm_cause, next_cursor: None });
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
    let node = edge.registry.node(&id).await?.ok_or_else(|| unknown(&name))?;
    Ok(Json(seen(&edge, node)))
}

/// What cannot be a name is not the name of a node.
pub(super) fn id(name: &str) -> Result<NodeId, ApiError> {
    name.parse().map_err(|_| unknown(name))
}

pub(super) fn unknown(name: &str) -> ApiError {
    let name: String = name.chars().take(100).collect();
    ApiError::not_found(format!("there is no node {name:?}"))
}
