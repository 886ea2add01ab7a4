//! The path of `POST /spawn`: find a node, start, answer, and what to undo when it does not go well.
//!
//! `search` finds the next node, `exclusions` says which ones not, `attempts` judges what came of each try. What was learned
//! of the nodes goes to the registry and the snapshot once, when the request is decided or its caller has left, and never
//! delays the answer.

use std::sync::Arc;
use std::time::Duration;

use model::api::{self, SpawnAnswer};
use model::{NodeId, RequestId, SpawnId};
use registry::{Outcomes, RegistryError};
use tokio::time::Instant;
use tracing::{debug, info};
use wire::v1;
use wire::v1::refused::Reason;

use super::attempts::{Failure, Next};
use super::search::{Search, Slot};
use crate::agent_client::{AgentError, Outcome};
use crate::callers::Refused;
use crate::metrics::{Attempt, Phase};
use crate::spawning::held_slot::Held;
use crate::spawning::order::Order;
use crate::start::door::Door;

/// Why there is no spawn.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// Every matching node is full, or said so.
    NoCapacity { why: String },
    /// The owner has as many as it may have.
    OverQuota { most: u32 },
    /// The caller has as many requests in line here as it may have.
    Refused(Refused),
    /// No node matches.
    NoMatchingNode { why: String },
    /// The process ended before it was ready.
    Failed { node: NodeId, spawn: SpawnId, exit: Box<v1::Exit>, log: Vec<String> },
    /// The process could not even be started.
    CannotStart { node: NodeId, spawn: SpawnId, why: String },
    /// The process was not ready in time, or its agent did not answer in time.
    NotReady { node: NodeId, spawn: SpawnId, log: Option<Vec<String>> },
    /// The agent found that the model leads outside its directories.
    BadModel { why: String },
    /// The registry is away.
    Registry(RegistryError),
}

/// A request that gets no spawn: why, and every node that was tried.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) error: SpawnError,
    pub(crate) attempts: Vec<api::Attempt>,
}

/// Starts a spawn. While the registry is away, nodes are chosen from the last snapshot of the farm, unless the request is
/// `keyed`: its key's promise could not be kept. The caller who has handed the answer over must [`Held::keep`] what it got;
/// dropping it, or this future at any point, leaves nothing behind.
pub(crate) async fn spawn(
    door: &Arc<Door>,
    order: &Order,
    request: &RequestId,
    keyed: bool,
) -> Result<(SpawnAnswer, Held), Box<Rejection>> {
    let mut search = Search::new(door, order, request, keyed);
    match run(door, order, &mut search).await {
        Ok(answered) => Ok(answered),
        Err(error) => Err(Box::new(Rejection { error, attempts: search.attempts.listed() })),
    }
}

async fn run(
    door: &Arc<Door>,
    order: &Order,
    search: &mut Search<'_>,
) -> Result<(SpawnAnswer, Held), SpawnError> {
    loop {
        let Slot { mut held, deadline, connect } = search.slot().await?;
        let (node, spawn) = (held.node().clone(), held.spawn());
        debug!(spawn.id = %spawn, node.id = %node, standing = ?held.standing(), "slot reserved");
        search.attempts.begin(node.clone(), spawn, held.standing());
        let began = Instant::now();
        let given = deadline.saturating_duration_since(began);
        let failure = match held.start(order, deadline, connect).await {
            Ok(Outcome::Ready(ready)) => {
                door.metrics.attempt(Attempt::Ready);
                door.metrics.phase(Phase::StartToReady, Duration::from_micros(ready.start_to_ready_us));
                search.attempts.ready();
                let answer = SpawnAnswer {
                    id: spawn,
                    endpoint: ready.endpoint,
                    renderer_type: order.demand.renderer,
                    node,
                };
                return Ok((answer, held));
            }
            Ok(Outcome::Ended(ended)) => {
                door.metrics.attempt(Attempt::Ended);
                held.keep();
                Failure::Ended(ended)
            }
            // Nothing was started: dropping `held` releases the slot.
            Err(AgentError::Refused { reason, detail }) => {
                door.metrics.attempt(Attempt::Refused);
                if reason == Reason::WrongNode {
                    door.agents.is_elsewhere(&node);
                }
                if held.is_from_snapshot() {
                    door.snapshot.refused(&node, reason);
                }
                search.exclusions.refused(&node, reason);
                Failure::Refused { reason, detail }
            }
            Err(AgentError::NotSent { why, connecting }) => {
                door.metrics.attempt(Attempt::NotSent);
                search.exclusions.unreachable(&node, connecting);
                Failure::Unreachable { why }
            }
            Err(AgentError::Unknown { why, deadline: timed_out }) => {
                door.metrics.attempt(Attempt::Unknown);
                // It may have been started: before anything else is tried, it is given up for good.
                let abandoned = held.abandon().await;
                let timed_out = timed_out || Instant::now() >= deadline;
                if !timed_out && let Err(error) = abandoned {
                    search.attempts.fail(Failure::Unanswered { why, deadline: false }, false);
                    return Err(SpawnError::Registry(error));
                }
                Failure::Unanswered { why, deadline: timed_out }
            }
        };
        info!(node.id = %node, spawn.id = %spawn, code = failure.code(), reason = failure.reason(), "start failed");
        match &failure {
            Failure::Ended(_) | Failure::Unanswered { deadline: true, .. } => search.exclusions.failed(&node),
            Failure::Unanswered { .. } => search.exclusions.unanswered(&node),
            Failure::Refused { .. } | Failure::Unreachable { .. } => {}
        }
        let hurried = given < door.config.spawn_deadline / 2 && began.elapsed() >= given.mul_f64(0.9);
        if search.attempts.fail(failure, hurried) == Next::Answer
            && let Some(answer) = search.attempts.answer()
        {
            return Err(answer);
        }
    }
}

/// Hands what the starts of a request came to to the snapshot and, in the background, to the registry.
pub(super) fn learn(door: &Arc<Door>, outcomes: Outcomes) {
    door.snapshot.learn(&outcomes);
    if door.registry.outage().is_some() {
        return;
    }
    let registry = Arc::clone(door);
    door.cleanups.spawn(async move {
        if let Err(error) = registry.registry.learn(&outcomes).await {
            debug!(%error, "outcomes of starts not learned");
        }
    });
}

#[cfg(test)]
mod tests;
