//! Spawns that were started: list, show, stop, log, and their life. Callers see their own spawns; those of others are answered as
//! unknown, except to operators. What was begun at an agent is completed, whether or not the caller stays.

use std::sync::Arc;
use std::time::Duration;

use access::Scope;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use model::api::{ErrorCode, Spawn, SpawnList, SpawnPatch};
use model::tags::MAX_TAGS;
use model::{
    Audit, AuditOutcome, ExitReason, NodeId, OrderKind, RendererType, RequestId, SpawnId, SpawnRecord,
    SpawnState, Tag,
};
use registry::{Located, RegistryError, SpawnFilter, SpawnPage};
use tracing::{debug, info};
use wire::v1::set_life_reply;
use wire::v1::stop_reply::Outcome;

use super::authorization::Who;
use super::edge::Edge;
use super::ended_by::ended_by;
use super::error::{self, ApiError};
use super::extract::{self, Id, Name, Parameters, no_parameters};
use super::list_turns;
use super::problem_sets::{ChangeProblems, ListProblems, LogProblems, OneProblems};
use super::when::When;
use crate::agent_client::{AgentError, Agents, StopReason};
use crate::callers::Account;
use crate::operations::{Failed, Given, failed};
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
        ("renderer" = Option<RendererType>, Query, description = "Only those that are rendered so"),
        ("reason" = Option<ExitReason>, Query, description = "Only those that ended for this reason"),
        (
            "since" = Option<String>, Query, min_length = 1, max_length = 64,
            description = "Only those that have ended, at this time or later: in UTC, as `2026-01-31T08:00:00Z`, or how long ago, as `24h`",
        ),
        (
            "until" = Option<String>, Query, min_length = 1, max_length = 64,
            description = "Only those that have ended, before this time; written as `since`",
        ),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most to list; 100 when left out"),
        ("cursor" = Option<String>, Query, pattern = "^[0-9]{1,19}$", description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, description = "One page", body = SpawnList), ListProblems),
)]
pub(crate) async fn list(
    State(edge): State<Arc<Edge>>,
    who: Who,
    account: Option<Extension<Arc<Account>>>,
    uri: Uri,
) -> Result<Json<SpawnList>, ApiError> {
    let mut parameters = Parameters::of(&uri)?;
    let meant = parameters.take::<String>("owner")?.map(|text| edge.names.meant(&text)).transpose();
    let meant = meant.map_err(|why| Invalid::field("owner", why))?;
    let owners = who.only().map_or_else(|| meant.clone().unwrap_or_default(), |only| vec![only.clone()]);
    // No key has the name, or it is another owner's than the caller's.
    let nothing = meant.is_some_and(|meant| !owners.iter().any(|owner| meant.contains(owner)));
    let [since, until] = ["since", "until"].map(|name| parameters.take::<When>(name));
    let (since, until) = (since?, until?);
    let filter = SpawnFilter {
        node: parameters.take::<NodeId>("node")?,
        owners,
        tags: parameters.all::<Tag>("tag", MAX_TAGS)?,
        state: parameters.take::<SpawnState>("state")?,
        renderer: parameters.take::<RendererType>("renderer")?,
        reason: parameters.take::<ExitReason>("reason")?,
        ended_since: None,
        ended_until: None,
        limit: usize::try_from(parameters.number("limit", 100, MAX_PAGE)?).unwrap_or(1),
        cursor: parameters.take::<u64>("cursor")?,
    };
    parameters.done()?;
    let page = if nothing {
        SpawnPage::default()
    } else {
        let is_long =
            filter.sifts() || since.is_some() || until.is_some() || filter.limit > list_turns::SHORT;
        let list = page(&edge.registry, filter, since, until);
        edge.list_turns
            .read(account.as_ref().map(|account| &*account.0), is_long, list, |page| page.looked_at)
            .await?
    };
    Ok(Json(SpawnList {
        spawns: page.spawns.into_iter().map(|spawn| edge.names.listed(spawn)).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
    }))
}

async fn page(
    registry: &RegistryClient,
    mut filter: SpawnFilter,
    since: Option<When>,
    until: Option<When>,
) -> Result<SpawnPage, RegistryError> {
    if since.is_some() || until.is_some() {
        let now = registry.now().await?;
        filter.ended_since = since.map(|when| when.moment(now));
        filter.ended_until = until.map(|when| when.moment(now));
    }
    registry.spawns(&filter).await
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
    let spawn = edge.registry.spawn(known(&id)?).await?;
    let spawn = or_missing(&edge.registry, &id, spawn).await?;
    if !may_see(&who, &spawn) {
        return Err(unknown(&id));
    }
    let ended_by = ended_by(&edge, &spawn).await;
    Ok(Json(Spawn { ended_by, ..edge.names.whole(spawn) }))
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
    who: Who,
    call: Request,
) -> Result<Json<Spawn>, ApiError> {
    no_parameters(call.uri())?;
    let given = edge.given(call.extensions());
    let life = order::patch(&extract::body(call).await?)?;
    edge.config.lives.of(Some(life)).map_err(|why| Invalid::field("maxSeconds", why))?;
    let audit = Audit { max_seconds: Some(life.as_secs()), ..given.order(OrderKind::SetLife) };
    ordered(&edge, who, id, given, audit, move |edge, located, given| async move {
        Ok((set_life(&edge, located, life, &given.request).await?, AuditOutcome::Done))
    })
    .await
    .map(Json)
}

async fn set_life(
    edge: &Edge,
    located: Located,
    life: Duration,
    request: &RequestId,
) -> Result<Spawn, Failed<ApiError>> {
    let Located { mut spawn, advertise } = located;
    let ended = || ApiError::new(ErrorCode::SpawnEnded, format!("spawn {} has ended", spawn.id));
    if spawn.state == SpawnState::Exited {
        return Err(ended().into());
    }
    let unreachable = |error: AgentError| Failed {
        may_hold: matches!(error, AgentError::Unknown { .. }),
        error: error::unreachable(&spawn.node, &error),
    };
    let advertise = reachable(advertise).map_err(unreachable)?;
    let set = edge.agents.set_life(&spawn.node, &advertise, spawn.id, life, request).await;
    match set.map_err(unreachable)? {
        set_life_reply::Outcome::Set => {}
        set_life_reply::Outcome::Ended => return Err(ended().into()),
        set_life_reply::Outcome::Unknown | set_life_reply::Outcome::Unspecified => {
            return Err(unknown(&spawn.id.to_string()).into());
        }
    }
    debug!(spawn.id = %spawn.id, max_seconds = life.as_secs(), "the life of a spawn was set");
    // The registry hears of it in a moment.
    spawn.expires_at = Some(spawn.started_at.after(life));
    Ok(edge.names.whole(spawn))
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
    who: Who,
    call: Request,
) -> Result<Response, ApiError> {
    no_parameters(call.uri())?;
    let given = edge.given(call.extensions());
    let audit = given.order(OrderKind::Stop);
    ordered(&edge, who, id, given, audit, |edge, located, given| async move {
        let Located { mut spawn, advertise } = located;
        if spawn.state == SpawnState::Exited {
            return Ok((Json(edge.names.whole(spawn)).into_response(), AuditOutcome::Done));
        }
        let mut outcome = AuditOutcome::Done;
        match stop_on_node(&edge.agents, &spawn, advertise, &given.request).await {
            // The registry hears of it in a moment.
            Ok(Outcome::Stopping) => spawn.state = SpawnState::Stopping,
            Ok(_) => {}
            Err(error) => {
                info!(spawn.id = %spawn.id, node.id = %spawn.node, %error, "spawn will be stopped by the next heartbeat");
                let may_hold = matches!(error, AgentError::Unknown { .. });
                edge.registry.abandon(&spawn.node, spawn.id).await.map_err(|error| Failed {
                    may_hold: may_hold || !error.is_refusal(),
                    error: ApiError::from(error),
                })?;
                outcome = AuditOutcome::Unacknowledged;
            }
        }
        Ok(((StatusCode::ACCEPTED, Json(edge.names.whole(spawn))).into_response(), outcome))
    })
    .await
}

/// Carries out what a caller wants of a spawn. Once begun it is completed, whether or not the caller stays. Of a caller that may operate it
/// is an operator's order; others have spawns of their own alone. The work says what came of it.
async fn ordered<T, W>(
    edge: &Arc<Edge>,
    who: Who,
    id: String,
    given: Given,
    audit: Audit,
    work: impl FnOnce(Arc<Edge>, Located, Given) -> W + Send + 'static,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    W: Future<Output = Result<(T, AuditOutcome), Failed<ApiError>>> + Send + 'static,
{
    let this = Arc::clone(edge);
    let work = async move {
        let mut audit = Audit { spawn: id.parse().ok(), ..audit };
        let outcome = match locate(&this.registry, &who, &id).await {
            Ok(located) => {
                audit.node = Some(located.spawn.node.clone());
                work(Arc::clone(&this), located, given.clone()).await
            }
            Err(error) => Err(error.into()),
        };
        if who.has(Scope::Operate) {
            let audit = match &outcome {
                Ok((_, outcome)) => Audit { outcome: *outcome, ..audit },
                Err(Failed { error, may_hold }) => failed(audit, error.0.code, *may_hold),
            };
            this.operations.auditor.record(&given, audit).await;
        }
        outcome.map(|(answer, _)| answer).map_err(|failed| failed.error)
    };
    edge.operations.cleanups.finish(work).await
}

/// Nothing was done.
impl From<ApiError> for Failed<ApiError> {
    fn from(error: ApiError) -> Self {
        Self { error, may_hold: false }
    }
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
    let located = or_missing(registry, id, located).await?;
    if may_see(who, &located.spawn) { Ok(located) } else { Err(unknown(id)) }
}

/// What the registry has of a spawn. A registry that was wiped or has just come back may lack a spawn that lives until its agent has
/// reported: it is not known to be missing before that.
async fn or_missing<T>(registry: &RegistryClient, id: &str, found: Option<T>) -> Result<T, ApiError> {
    match found {
        Some(found) => Ok(found),
        None if registry.may_lack().await? => Err(error::refilling()),
        None => Err(unknown(id)),
    }
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
