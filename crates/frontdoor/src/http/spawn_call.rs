//! One call of `POST /spawn`: what it asks for, and its outcome.
//!
//! Invariants: what is wrong with the request itself is found before anything is done. A caller that may not spawn any more, and a front
//! door that leaves, end the call.
//!
//! Failure: dropping the call leaves nothing behind; with an idempotency key, the work goes on for others that wait for it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use model::Demand;
use model::api::{ErrorCode, SpawnAnswer};
use registry::IdempotencyKey;
use tokio::time::Instant;
use traces::attribute::{NODE_ID, SPAWN_ID};
use tracing::Span;
use tracing::field::display;

use super::authorization::{self, Who};
use super::edge::Edge;
use super::error::ApiError;
use super::{extract, reasons};
use crate::callers::Share;
use crate::metrics::SpawnPhase;
use crate::registry_access::snapshot::Snapshot;
use crate::request_context::RequestContext;
use crate::spawning::error::{Rejection, SpawnError};
use crate::spawning::held_slot::HeldSlot;
use crate::spawning::order::{Accounted, SpawnOrder};
use crate::spawning::placer::Ticket;
use crate::spawning::progress::Progress;
use crate::strict_json::Invalid;

/// When a request that waited in line in vain should come again with its key. By then the key is free again, and the place in line has not
/// lapsed.
const COME_BACK: Duration = Duration::from_secs(2);

/// A request that may be carried out: it is well-formed, and its caller is allowed to make it.
#[derive(Debug)]
pub(super) struct Asked {
    began: Instant,
    who: Who,
    key: Option<IdempotencyKey>,
    order: SpawnOrder,
    pub(super) context: RequestContext,
    /// The caller's call, which lasts until this is answered.
    _call: Option<Arc<Share>>,
}

/// Reads a request. The error: it cannot be carried out as it is.
pub(super) async fn read(edge: &Edge, request: Request) -> Result<Asked, ApiError> {
    let began = Instant::now();
    extract::no_parameters(request.uri())?;
    let key = extract::idempotency_key(request.headers())?;
    let context = RequestContext::of(request.extensions());
    let who = Who::of(request.extensions());
    let call = authorization::call(request.extensions());
    let order = ordered(edge, &who, request).await?;
    let key = match (key, who.owner()) {
        (Some(key), Some(owner)) => Some(key.of(owner)),
        (key, _) => key,
    };
    Ok(Asked { began, who, key, order, context, _call: call })
}

/// Reads what a caller orders.
pub(super) async fn ordered(edge: &Edge, who: &Who, request: Request) -> Result<SpawnOrder, ApiError> {
    let account = authorization::account(request.extensions());
    let mut order = SpawnOrder::parse(&extract::body(request).await?)?;
    order.max_life = edge.config.lives.of(order.max_life).map_err(|why| Invalid::field("maxSeconds", why))?;
    order.account = account.map(Accounted);
    order.owner = who.owner().cloned();
    order.max_spawns = who.limits().concurrent.map(NonZeroU32::get);
    Ok(order)
}

/// Carries a request out. How far it has come is reported as `progress`, where its caller watches.
pub(super) async fn decide(
    edge: &Edge,
    asked: &Asked,
    progress: Option<&Progress>,
) -> Result<(SpawnAnswer, Option<HeldSlot>), ApiError> {
    let outcome = tokio::select! {
        biased;
        outcome = answer(edge, asked, progress) => outcome,
        () = edge.stages.cut.cancelled() => Err(ApiError::leaving()),
        // A caller that waits in line, or for another request with its key, may have lost its credential meanwhile.
        () = asked.who.revoked(edge.authenticator.as_deref()) => Err(ApiError::revoked()),
    };
    edge.metrics.spawning.phase(SpawnPhase::Total, asked.began.elapsed(), &asked.context.trace);
    edge.metrics.spawning.spawn(outcome.as_ref().err().map(|error| error.0.code));
    match &outcome {
        Ok((answer, _)) => {
            Span::current().record("spawn.id", display(answer.id)).record("node.id", display(&answer.node));
            // A request that was given the answer of another one has no attempts of its own, and leads to them by this.
            asked.context.trace.note(SPAWN_ID, answer.id);
            asked.context.trace.note(NODE_ID, &answer.node);
        }
        Err(error) => record(&asked.order, error),
    }
    outcome
}

async fn answer(
    edge: &Edge,
    asked: &Asked,
    progress: Option<&Progress>,
) -> Result<(SpawnAnswer, Option<HeldSlot>), ApiError> {
    let Asked { who, key, order, context, .. } = asked;
    let per_minute = who.limits().per_minute;
    let Some(key) = key else {
        let own = Progress::default();
        let started = start(edge, order, per_minute, context, None, progress.unwrap_or(&own)).await;
        return started.map(|(answer, held)| (answer, Some(held)));
    };
    let waiter = edge.idempotency.join(key, order);
    // Only what is done counts: the same key again starts nothing.
    let work = async || {
        let started = start(edge, order, per_minute, context, Some(key), waiter.progress()).await;
        started.map_err(|error| error.0)
    };
    let answered = edge.idempotency.once(&waiter, key, order, context, work);
    let mut answer = match progress {
        None => answered.await?,
        Some(progress) => {
            // Another request may do the work, here or at another front door; its place in line is that of the key.
            let _watch = edge.positions.watch(Ticket::of(Some(key)).id, progress);
            tokio::select! {
                answer = answered => answer?,
                never = progress.follow(waiter.progress()) => match never {},
            }
        }
    };
    if let Err(problem) = &mut answer
        && problem.code == ErrorCode::NoCapacity
        && !order.wait.is_zero()
    {
        problem.retry_after = Some(COME_BACK);
    }
    answer.map(|answer| (answer, None)).map_err(ApiError)
}

/// Starts a spawn within the limits of its owner.
pub(crate) async fn start(
    edge: &Edge,
    order: &SpawnOrder,
    per_minute: Option<NonZeroU32>,
    context: &RequestContext,
    key: Option<&IdempotencyKey>,
    progress: &Progress,
) -> Result<(SpawnAnswer, HeldSlot), ApiError> {
    let account = order.account.as_ref().map(|account| &*account.0);
    if let (Some(max), Some(account)) = (order.max_spawns, account)
        && account.is_over_quota(max)
    {
        return Err(SpawnError::OverQuota { max }.into());
    }
    if let (Some(owner), Some(per_minute)) = (&order.owner, per_minute) {
        edge.rates.permit(owner, per_minute, account).await?;
    }
    let spawned = edge.spawner.spawn(order, context, key, progress).await;
    if let (Some(account), Err(rejection)) = (account, &spawned)
        && let SpawnError::OverQuota { max } = rejection.error
    {
        account.note_over_quota(max);
    }
    match spawned {
        Ok(spawned) => Ok(spawned),
        Err(rejection) => {
            let reasons = reasons::reasons(edge, order, &rejection).await;
            let mut error = explained(&edge.snapshot, &order.demand, *rejection);
            error.0.reasons = reasons;
            Err(error)
        }
    }
}

/// A failure, with what all nodes that suit the request have in common where starts fail on every one of them.
fn explained(snapshot: &Snapshot, demand: &Demand, rejection: Rejection) -> ApiError {
    let mut error = ApiError::from(rejection);
    let by_nodes = [ErrorCode::SpawnFailed, ErrorCode::ReadyTimeout, ErrorCode::NoCapacity];
    if by_nodes.contains(&error.0.code)
        && let Some(cause) = snapshot.farm_cause().filter(|cause| cause.is_of(demand))
    {
        let (detail, nodes) = (&error.0.detail, cause.nodes());
        error.0.detail = format!("{detail}; starts fail on {nodes}: {}", cause.reason);
    }
    error
}

/// Puts what was asked for, and where it failed, into the request's line in the log. Never the session token.
pub(crate) fn record(order: &SpawnOrder, error: &ApiError) {
    let span = Span::current();
    span.record("asked", display(order));
    if let Some(spawn) = &error.0.spawn {
        span.record("spawn.id", display(spawn));
    }
    if let Some(node) = &error.0.node {
        span.record("node.id", display(node));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use model::{FarmCause, RendererType, Timestamp};

    use super::*;

    #[tokio::test]
    async fn a_failure_that_all_nodes_have_in_common_is_named() {
        let snapshot = Snapshot::default();
        let demand =
            Demand { renderer: RendererType::Csr, pool: Some("cpu".into()), labels: BTreeMap::new() };
        let detail = |error| {
            explained(&snapshot, &demand, Rejection { error, attempts: Vec::new(), passed_over: Vec::new() })
                .0
                .detail
                .clone()
        };
        let failed = || SpawnError::NoCapacity { why: "every node is full".into() };
        assert_eq!(detail(failed()), "every node is full");
        let since = Timestamp::now().before(Duration::from_secs(9));
        let reason = "invalid license (exit code 6)".to_owned();
        snapshot.set_farm_cause(Some(FarmCause {
            reason,
            since,
            requests: 5,
            concerns: vec![demand.clone().into()],
        }));
        assert_eq!(
            detail(failed()),
            "every node is full; starts fail on every node of pool cpu: invalid license (exit code 6)"
        );
        let elsewhere = SpawnError::NoMatchingNode { why: "no node has the label".into() };
        assert_eq!(detail(elsewhere), "no node has the label");
    }
}
