//! `POST /spawn`.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use model::RequestId;
use model::api::{ErrorCode, SpawnAnswer, SpawnRequest};
use registry::IdempotencyKey;
use serde::Serialize;
use tokio::time::Instant;
use tracing::Span;
use tracing::field::display;

use super::authorization::{self, Who};
use super::edge::Edge;
use super::error::ApiError;
use super::extract;
use super::problem_sets::SpawnProblems;
use crate::metrics::SpawnPhase;
use crate::registry_access::snapshot::Snapshot;
use crate::spawning::error::{Rejection, SpawnError};
use crate::spawning::held_slot::HeldSlot;
use crate::spawning::order::{Accounted, Order};
use crate::strict_json::Invalid;

/// When a request that waited in line in vain should come again with its key. By then the key is free again, and the place in line has not
/// lapsed.
const COME_BACK: Duration = Duration::from_secs(2);

/// Starts a stream cache server and answers when it is ready.
#[utoipa::path(
    post,
    path = "/spawn",
    tag = "spawns",
    request_body(content = Option<SpawnRequest>, description = "What to spawn; at most 64 KiB"),
    params((
        "Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
        description = "1 to 255 visible ASCII characters; the same key gives the same answer for 10 minutes",
    )),
    responses((status = 200, description = "It is ready: a viewer can connect", body = SpawnAnswer), SpawnProblems),
)]
pub(crate) async fn spawn(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, ApiError> {
    let began = Instant::now();
    extract::no_parameters(request.uri())?;
    let key = extract::idempotency_key(request.headers())?;
    let id = extract::request_id(request.extensions());
    let who = Who::of(request.extensions());
    let account = authorization::account(request.extensions());
    let mut order = Order::parse(&extract::body(request).await?)?;
    order.max_life = edge.config.lives.of(order.max_life).map_err(|why| Invalid::field("maxSeconds", why))?;
    order.account = account.map(Accounted);
    order.owner = who.owner().cloned();
    order.max_spawns = who.limits().concurrent.map(NonZeroU32::get);
    let outcome = tokio::select! {
        biased;
        outcome = answer(&edge, &who, key, &order, &id) => outcome,
        () = edge.stages.cut.cancelled() => Err(ApiError::leaving()),
        // A caller that waits in line, or for another request with its key, may have lost its credential meanwhile.
        () = who.revoked(edge.authenticator.as_deref()) => Err(ApiError::revoked()),
    };
    edge.metrics.spawning.phase(SpawnPhase::Total, began.elapsed());
    edge.metrics.spawning.spawn(outcome.as_ref().err().map(|error| error.0.code));
    if let Err(error) = &outcome {
        record(&order, error);
    }
    let (answer, held) = outcome?;
    Span::current().record("spawn.id", display(answer.id)).record("node.id", display(&answer.node));
    Ok(handing_over(&answer, held))
}

async fn answer(
    edge: &Edge,
    who: &Who,
    key: Option<IdempotencyKey>,
    order: &Order,
    id: &RequestId,
) -> Result<(SpawnAnswer, Option<HeldSlot>), ApiError> {
    let key = match (key, who.owner()) {
        (Some(key), Some(owner)) => Some(key.of(owner)),
        (key, _) => key,
    };
    // Only what is done counts: the same key again starts nothing.
    let work = async || start(edge, order, who.limits().per_minute, id, key.as_ref()).await;
    let Some(key) = &key else {
        return work().await.map(|(answer, held)| (answer, Some(held)));
    };
    let work = async || work().await.map_err(|error| error.0);
    let mut answer = edge.idempotency.once(key, order, id, work).await?;
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
    order: &Order,
    per_minute: Option<NonZeroU32>,
    id: &RequestId,
    key: Option<&IdempotencyKey>,
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
    let spawned = edge.spawner.spawn(order, id, key).await;
    if let (Some(account), Err(rejection)) = (account, &spawned)
        && let SpawnError::OverQuota { max } = rejection.error
    {
        account.note_over_quota(max);
    }
    spawned.map_err(|rejection| explained(&edge.snapshot, *rejection))
}

/// A failure, with what all nodes have in common where starts fail on every one of them.
fn explained(snapshot: &Snapshot, rejection: Rejection) -> ApiError {
    let mut error = ApiError::from(rejection);
    let by_nodes = [ErrorCode::SpawnFailed, ErrorCode::ReadyTimeout, ErrorCode::NoCapacity];
    if by_nodes.contains(&error.0.code)
        && let Some(cause) = snapshot.farm_cause()
    {
        error.0.detail = format!("{}; starts fail on every node: {}", error.0.detail, cause.reason);
    }
    error
}

/// Puts what was asked for, and where it failed, into the request's line in the log. Never the session token.
pub(crate) fn record(order: &Order, error: &ApiError) {
    let span = Span::current();
    span.record("asked", display(order));
    if let Some(spawn) = &error.0.spawn {
        span.record("spawn.id", display(spawn));
    }
    if let Some(node) = &error.0.node {
        span.record("node.id", display(node));
    }
}

/// An answer that lets the spawn live only once it is on its way to the caller. When the connection is gone before that,
/// the body is dropped unread and so is the spawn.
pub(crate) fn handing_over(answer: &impl Serialize, held: Option<HeldSlot>) -> Response {
    let json = Bytes::from(serde_json::to_vec(answer).unwrap_or_default());
    let body = Body::new(HandingOver { json: Some(json), held });
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

struct HandingOver {
    json: Option<Bytes>,
    held: Option<HeldSlot>,
}

impl hyper::body::Body for HandingOver {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let json = self.json.take();
        if let Some(mut held) = self.held.take() {
            held.keep();
        }
        Poll::Ready(json.map(|json| Ok(Frame::data(json))))
    }

    fn is_end_stream(&self) -> bool {
        self.json.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.json.as_ref().map_or(0, |json| json.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::{FarmCause, Timestamp};

    use super::*;

    #[tokio::test]
    async fn a_failure_that_all_nodes_have_in_common_is_named() {
        let snapshot = Snapshot::default();
        let detail = |error| explained(&snapshot, Rejection { error, attempts: Vec::new() }).0.detail.clone();
        let failed = || SpawnError::NoCapacity { why: "every node is full".into() };
        assert_eq!(detail(failed()), "every node is full");
        let since = Timestamp::now().before(Duration::from_secs(9));
        let reason = "invalid license (exit code 6)".to_owned();
        snapshot.set_farm_cause(Some(FarmCause { reason, since, requests: 5 }));
        assert_eq!(
            detail(failed()),
            "every node is full; starts fail on every node: invalid license (exit code 6)"
        );
        let elsewhere = SpawnError::NoMatchingNode { why: "no node has the label".into() };
        assert_eq!(detail(elsewhere), "no node has the label");
    }
}
