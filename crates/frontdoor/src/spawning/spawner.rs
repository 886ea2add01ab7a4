//! The path of `POST /spawn`: find a node, start, answer, and undo what does not go well.
//!
//! ```text
//!  search a slot ─▶ start on its agent ─▶ ready: answer
//!       ▲                  │
//!       └── another node ◀─┴─ failed, refused, unreachable, answer missing ─▶ or the failure is the answer
//! ```
//!
//! Invariants: no second attempt after one that may have started a process, before that one was abandoned. What was learned of
//! the nodes goes to the registry and the snapshot once, when the request is decided or its caller has left, and never delays
//! the answer.

use std::sync::Arc;
use std::time::Duration;

use model::api::SpawnAnswer;
use model::{NodeId, SpawnId};
use registry::{IdempotencyKey, RegistryError};
use tokio::time::Instant;
use traces::Kind;
use traces::attribute::{NODE_ID, OUTCOME, SPAWN_ID};
use tracing::{debug, warn};

use super::attempts::{AttemptFailure, Next, TimeGiven};
use super::error::{Rejection, SpawnError};
use super::held_slot::HeldSlot;
use super::line::Line;
use super::order::SpawnOrder;
use super::placer::{Foretold, Placer};
use super::progress::Progress;
use super::proof;
use super::search::{Search, Slot, SpawnPath};
use super::why::key_of;
use crate::agent_client::{AgentError, StartOutcome};
use crate::metrics::{AttemptOutcome, SpawnMetrics, SpawnPhase};
use crate::request_context::RequestContext;

#[derive(Debug)]
pub(crate) struct Spawner(SpawnPath);

impl Spawner {
    /// `deadline`: the time of all attempts of a request together.
    pub(crate) fn new(
        placer: Arc<Placer>,
        line: Arc<Line>,
        deadline: Duration,
        metrics: SpawnMetrics,
    ) -> Self {
        Self(SpawnPath { placer, line, deadline, metrics })
    }

    /// Starts a spawn. While the registry is away, nodes are chosen from the last snapshot of the farm, unless the request has
    /// a `key`, whose promise could not be kept. How far it has come is reported as `progress`. Call [`HeldSlot::keep`] once the
    /// answer is handed over; dropping the slot, or this future at any point, leaves nothing behind.
    pub(crate) async fn spawn(
        &self,
        order: &SpawnOrder,
        request: &RequestContext,
        key: Option<&IdempotencyKey>,
        progress: &Progress,
    ) -> Result<(SpawnAnswer, HeldSlot), Box<Rejection>> {
        let mut search = Search::new(&self.0, (order, request), key, progress);
        match self.run(order, &mut search).await {
            Ok(answered) => Ok(answered),
            Err(error) => {
                let failures = search.attempts.failures();
                let passed_over = failures.map(|(node, why)| (node.clone(), key_of(why))).collect();
                Err(Box::new(Rejection { error, attempts: search.attempts.listed(), passed_over }))
            }
        }
    }

    /// What [`Self::spawn`] would begin with. Nothing is reserved.
    pub(crate) async fn forecast(&self, order: &SpawnOrder) -> Result<Foretold, RegistryError> {
        self.0.placer.forecast(order).await
    }

    async fn run(
        &self,
        order: &SpawnOrder,
        search: &mut Search<'_>,
    ) -> Result<(SpawnAnswer, HeldSlot), SpawnError> {
        let SpawnPath { deadline: whole, metrics, .. } = &self.0;
        let mut number = 0_u32;
        loop {
            number += 1;
            let Slot { mut held, deadline, connect } = search.slot().await?;
            let (node, spawn) = (held.node().clone(), held.spawn());
            debug!(spawn.id = %spawn, node.id = %node, standing = held.standing().word(), "slot reserved");
            search.progress.start(&node);
            search.attempts.begin(node.clone(), spawn, held.standing());
            let began = Instant::now();
            let given = deadline.saturating_duration_since(began);
            let span = search.request.trace.child_of_kind("attempt", Kind::Client);
            span.note(NODE_ID, &node);
            span.note(SPAWN_ID, spawn);
            span.count("hatchery.attempt", number);
            let failure = match held.start(order, deadline, connect, (span.trace(), search.waited)).await {
                Ok(StartOutcome::Ready(ready)) => 'ready: {
                    if let Some(ended) = proof::ended_early(&held, deadline).await {
                        metrics.attempt(AttemptOutcome::Ended);
                        held.keep();
                        break 'ready AttemptFailure::Ended(ended);
                    }
                    span.note(OUTCOME, "ready");
                    span.end();
                    metrics.attempt(AttemptOutcome::Ready);
                    let took = Duration::from_micros(ready.start_to_ready_us);
                    metrics.phase(SpawnPhase::StartToReady, took, &search.request.trace);
                    search.attempts.ready();
                    let answer = SpawnAnswer {
                        id: spawn,
                        endpoint: ready.endpoint,
                        renderer_type: order.demand.renderer,
                        node,
                    };
                    return Ok((answer, held));
                }
                Ok(StartOutcome::Ended(ended)) => {
                    metrics.attempt(AttemptOutcome::Ended);
                    held.keep();
                    AttemptFailure::Ended(ended)
                }
                // Nothing was started: dropping `held` releases the slot.
                Err(AgentError::Refused { reason, detail }) => {
                    metrics.attempt(AttemptOutcome::Refused);
                    held.refused(reason);
                    search.exclusions.refused(&node, reason);
                    AttemptFailure::Refused { reason, detail }
                }
                Err(AgentError::NotSent { why, connecting }) => {
                    metrics.attempt(AttemptOutcome::NotSent);
                    search.exclusions.unreachable(&node, connecting);
                    AttemptFailure::Unreachable { why }
                }
                Err(AgentError::Unknown { why, deadline: timed_out }) => {
                    metrics.attempt(AttemptOutcome::Unknown);
                    let timed_out = timed_out || Instant::now() >= deadline;
                    let failure = AttemptFailure::Unanswered { why: why.clone(), deadline: timed_out };
                    // The attempt ends here. A caller that leaves while it is abandoned must not hide why.
                    span.note(OUTCOME, "unanswered");
                    span.fail(failure.code(), failure.reason());
                    span.trace().end();
                    // It may have been started: before anything else is tried, it is given up for good.
                    let abandoned = held.abandon().await;
                    let timed_out = timed_out || Instant::now() >= deadline;
                    if !timed_out && let Err(error) = abandoned {
                        log_failure(&failure, (&node, spawn, number), order);
                        search.attempts.fail(failure, TimeGiven::Enough);
                        return Err(SpawnError::Registry(error));
                    }
                    AttemptFailure::Unanswered { why, deadline: timed_out }
                }
            };
            log_failure(&failure, (&node, spawn, number), order);
            span.note(OUTCOME, failure.code());
            span.end_failed(failure.code(), failure.reason());
            match &failure {
                AttemptFailure::Ended(_) | AttemptFailure::Unanswered { deadline: true, .. } => {
                    search.exclusions.failed(&node)
                }
                AttemptFailure::Unanswered { .. } => search.exclusions.unanswered(&node),
                AttemptFailure::Refused { .. } | AttemptFailure::Unreachable { .. } => {}
            }
            let time = if given < *whole / 2 && began.elapsed() >= given.mul_f64(0.9) {
                TimeGiven::TooLittle
            } else {
                TimeGiven::Enough
            };
            if search.attempts.fail(failure, time) == Next::Answer
                && let Some(answer) = search.attempts.answer()
            {
                return Err(answer);
            }
        }
    }
}

fn log_failure(
    failure: &AttemptFailure,
    (node, spawn, attempt): (&NodeId, SpawnId, u32),
    order: &SpawnOrder,
) {
    warn!(
        node.id = %node,
        spawn.id = %spawn,
        attempt,
        asked = %order,
        code = failure.code(),
        reason = failure.reason(),
        "start failed"
    );
}

#[cfg(test)]
mod tests;
