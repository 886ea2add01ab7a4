//! Spawns that were started: list, show, stop, log.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use model::api::{ErrorCode, Spawn, SpawnList, SpawnPatch};
use model::tags::MAX_TAGS;
use model::{NodeId, RequestId, SpawnId, SpawnRecord, SpawnState, Tag};
use registry::{Located, SpawnFilter, SpawnPage};
use tracing::{debug, info};
use wire::v1::set_life_reply;
use wire::v1::stop_reply::Outcome;

use super::authorization::Who;
use super::edge::Edge;
use super::error::{self, ApiError};
use super::extract::{self, Id, Name, Parameters, no_parameters};
use super::problem_sets::{ChangeProblems, ListProblems, LogProblems, OneProblems};
use crate::agent_client::{AgentError, Agents, StopReason};
use crate::registry_access::circuit::RegistryClient;
use crate::spawning::order;
use crate::strict_json::Invalid;

/// Spawns on a page.
const MAX_PAGE: u32 = 1000;
/// Lines of a log.
const MAX_LINES: u32 = 10_000;

/// Lists spawns, newest first.
#[utoipa::path(
    get,
    path = "/v1/spawns",
    tag = "spawns",
    params(
        (
            "node" = Option<String>, Query, min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$",
            description = "Only those of this node",
        ),
        ("state" = Option<SpawnState>, Query, description = "Only those in this state"),
        (
            "owner" = Option<String>, Query, min_length = 1, max_length = 255,
            description = "Only those of this owner: the name or the id of an API key, or an owner as records have it",
        ),
        (
            "tag" = Option<Vec<String>>, Query,
            description = "Only those with this tag, `key=value`; may be repeated, all must hold",
        ),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most to list; 100 when left out"),
        ("cursor" = Option<String>, Query, pattern = "^[0-9]{1,19}$", description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, description = "One page", body = SpawnList), ListProblems),
)]
pub(crate) async fn list(
    State(edge): State<Arc<Edge>>,
    who: Who,
    uri: Uri,
) -> Result<Json<SpawnList>, ApiError> {
    let mut parameters = Parameters::of(&uri)?;
    let meant = parameters.take::<String>("owner")?.map(|text| edge.names.meant(&text)).transpose();
    let meant = meant.map_err(|why| Invalid::field("owner", why))?;
    let owners = who.only().map_or_else(|| meant.clone().unwrap_or_default(), |only| vec![only.clone()]);
    // No key has the name, or it is another owner's than the caller's.
    let nothing = meant.is_some_and(|meant| !owners.iter().any(|owner| meant.contains(owner)));
    let filter = SpawnFilter {
        node: parameters.take::<NodeId>("node")?,
        owners,
        tags: parameters.all::<Tag>("tag", MAX_TAGS)?,
        state: parameters.take::<SpawnState>("state")?,
        limit: usize::try_from(parameters.number("limit", 100, MAX_PAGE)?).unwrap_or(1),
        cursor: parameters.take::<u64>("cursor")?,
    };
    parameters.done()?;
    let page = if nothing { SpawnPage::default() } else { edge.registry.spawns(&filter).await? };
    Ok(Json(SpawnList {
        spawns: page.spawns.into_iter().map(|spawn| edge.names.listed(spawn)).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
    }))
}

/// Shows one spawn with its history.
#[utoipa::path(
    get,
    path = "/v1/spawns/{id}",
    tag = "spawns",
    params(("id" = String, Path, description = "The spawn's id")),
    responses((status = 200, description = "The spawn", body = Spawn), OneProblems),
)]
pub(crate) async fn show(
    State(edge): State<Arc<Edge>>,
    Name(id): Name,
    who: Who,
    uri: Uri,
) -> Result<Json<Spawn>, ApiError> {
    no_parameters(&uri)?;
    let spawn = edge.registry.spawn(known(&id)?).await?.filter(|spawn| may_see(&who, spawn));
    let spawn = spawn.ok_or_else(|| unknown(&id))?;
    Ok(Json(edge.names.whole(spawn)))
}

/// Sets how long a spawn may live, counted from its start: extends its life, or shortens it.
#[utoipa::path(
    patch,
    path = "/v1/spawns/{id}",
    tag = "spawns",
    params(("id" = String, Path, description = "The spawn's id")),
    request_body(content = SpawnPatch, description = "What to change"),
    responses((status = 200, description = "It is so", body = Spawn), ChangeProblems),
)]
pub(crate) async fn change(
    State(edge): State<Arc<Edge>>,
    Name(id): Name,
    Id(request): Id,
    who: Who,
    call: Request,
) -> Result<Json<Spawn>, ApiError> {
    no_parameters(call.uri())?;
    let life = order::patch(&extract::body(call).await?)?;
    edge.config.lives.of(Some(life)).map_err(|why| Invalid::field("maxSeconds", why))?;
    let Located { mut spawn, advertise } = locate(&edge.registry, &who, &id).await?;
    let ended = || ApiError::new(ErrorCode::SpawnEnded, format!("spawn {id} has ended"));
    if spawn.state == SpawnState::Exited {
        return Err(ended());
    }
    let unreachable = |error| error::unreachable(&spawn.node, &error);
    let advertise = reachable(advertise).map_err(unreachable)?;
    let set = edge.agents.set_life(&spawn.node, &advertise, spawn.id, life, &request).await;
    match set.map_err(unreachable)? {
        set_life_reply::Outcome::Set => {}
        set_life_reply::Outcome::Ended => return Err(ended()),
        set_life_reply::Outcome::Unknown | set_life_reply::Outcome::Unspecified => return Err(unknown(&id)),
    }
    debug!(spawn.id = %spawn.id, max_seconds = life.as_secs(), "the life of a spawn was set");
    // The registry hears of it in a moment.
    spawn.expires_at = Some(spawn.started_at.after(life));
    Ok(Json(edge.names.whole(spawn)))
}

/// Stops a spawn: TERM, grace, KILL.
#[utoipa::path(
    delete,
    path = "/v1/spawns/{id}",
    tag = "spawns",
    params(("id" = String, Path, description = "The spawn's id")),
    responses(
        (status = 202, description = "It is being ended", body = Spawn),
        (status = 200, description = "It had ended already", body = Spawn),
        OneProblems,
    ),
)]
pub(crate) async fn stop(
    State(edge): State<Arc<Edge>>,
    Name(id): Name,
    Id(request): Id,
    who: Who,
    uri: Uri,
) -> Result<Response, ApiError> {
    no_parameters(&uri)?;
    let Located { mut spawn, advertise } = locate(&edge.registry, &who, &id).await?;
    if spawn.state == SpawnState::Exited {
        return Ok(Json(edge.names.whole(spawn)).into_response());
    }
    match stop_on_node(&edge.agents, &spawn, advertise, &request).await {
        // The registry hears of it in a moment.
        Ok(Outcome::Stopping) => spawn.state = SpawnState::Stopping,
        Ok(_) => {}
        Err(error) => {
            info!(spawn.id = %spawn.id, node.id = %spawn.node, %error, "spawn will be stopped by the next heartbeat");
            edge.registry.abandon(&spawn.node, spawn.id).await?;
        }
    }
    Ok((StatusCode::ACCEPTED, Json(edge.names.whole(spawn))).into_response())
}

/// The error: the agent did not take the order.
async fn stop_on_node(
    agents: &Agents,
    spawn: &SpawnRecord,
    advertise: Option<String>,
    request: &RequestId,
) -> Result<Outcome, AgentError> {
    let advertise = reachable(advertise)?;
    let stopped = agents.stop(&spawn.node, &advertise, spawn.id, StopReason::Stopped, request).await;
    stopped.inspect(|outcome| debug!(spawn.id = %spawn.id, outcome = outcome.as_str_name(), "spawn stopped"))
}

/// The last lines of a spawn's output.
#[utoipa::path(
    get,
    path = "/v1/spawns/{id}/log",
    tag = "spawns",
    params(
        ("id" = String, Path, description = "The spawn's id"),
        ("lines" = Option<u32>, Query, minimum = 1, maximum = 10000, description = "Most lines; 100 when left out"),
    ),
    responses((status = 200, description = "Its last lines", body = String, content_type = "text/plain"), LogProblems),
)]
pub(crate) async fn log(
    State(edge): State<Arc<Edge>>,
    Name(id): Name,
    Id(request): Id,
    who: Who,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut parameters = Parameters::of(&uri)?;
    let lines = parameters.number("lines", 100, MAX_LINES)?;
    parameters.done()?;
    let Located { spawn, advertise } = locate(&edge.registry, &who, &id).await?;
    let unreachable = |error| error::unreachable(&spawn.node, &error);
    let advertise = reachable(advertise).map_err(unreachable)?;
    let log = edge.agents.read_log(&spawn.node, &advertise, spawn.id, lines, &request).await;
    let lines = log.map_err(unreachable)?.ok_or_else(|| {
        ApiError::not_found(format!("node {} has no log of spawn {} any more", spawn.node, spawn.id))
    })?;
    let text = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>();
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

async fn locate(registry: &RegistryClient, who: &Who, id: &str) -> Result<Located, ApiError> {
    let located = registry.locate(known(id)?).await?;
    located.filter(|located| may_see(who, &located.spawn)).ok_or_else(|| unknown(id))
}

/// A spawn of another owner is answered as unknown, except to operators.
fn may_see(who: &Who, spawn: &SpawnRecord) -> bool {
    who.only().is_none_or(|owner| spawn.owner.as_ref() == Some(owner))
}

/// A text that is no id is answered as an unknown spawn.
fn known(id: &str) -> Result<SpawnId, ApiError> {
    id.parse().map_err(|_| unknown(id))
}

fn unknown(id: &str) -> ApiError {
    let id: String = id.chars().take(100).collect();
    ApiError::not_found(format!("there is no spawn {id:?}"))
}

fn reachable(advertise: Option<String>) -> Result<String, AgentError> {
    advertise.ok_or_else(|| AgentError::NotSent {
        why: "the registry does not know the node any more".into(),
        connecting: false,
    })
}
