//! A slot that is held for a request. Whatever happens to the request, the slot is not forgotten: dropping a [`Held`]
//! gives it back, and only [`Held::keep`] lets the spawn live.

use std::sync::Arc;

use model::{NodeId, RequestId, SpawnId};
use registry::{RegistryError, Reservation};
use tokio::time::Instant;
use tracing::{debug, info};
use wire::v1;

use crate::agent_client::{AgentError, Outcome, StopReason};
use crate::cleanup::persist;
use crate::door::Door;
use crate::metrics::{CleanupKind, Phase};
use crate::order::Order;

/// How far the spawn has come that the slot is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The agent has not heard of it: the slot can simply be released.
    Reserved,
    /// The agent may have started it: it must be told to end it, or never to start it.
    Sent,
    /// It is somebody else's now, or over.
    Done,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Held {
    door: Arc<Door>,
    reservation: Reservation,
    request: RequestId,
    since: Instant,
    stage: Stage,
}

impl Held {
    /// `since`: when the reservation was asked for, which is before it began.
    pub(crate) fn new(
        door: &Arc<Door>,
        reservation: Reservation,
        request: RequestId,
        since: Instant,
    ) -> Self {
        Self { door: Arc::clone(door), reservation, request, since, stage: Stage::Reserved }
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.reservation.node
    }

    pub(crate) fn spawn(&self) -> SpawnId {
        self.reservation.spawn
    }

    /// Has the agent start the spawn, and waits until it is ready or has ended.
    pub(crate) async fn start(&mut self, order: &Order, deadline: Instant) -> Result<Outcome, AgentError> {
        let asked = Instant::now();
        let door = Arc::clone(&self.door);
        let link = door.agents.link(&self.reservation.node, &self.reservation.advertise).await?;
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let message = v1::SpawnRequest {
            spawn_id: self.reservation.spawn.to_string(),
            renderer_type: v1::RendererType::from(order.demand.renderer).into(),
            model: order.model.clone(),
            session_token: order.session_token.clone(),
            labels: order.demand.labels.clone().into_iter().collect(),
            // A little less than is left, so that the agent's verdict and the log lines still find a listener.
            deadline_ms: millis(left.mul_f64(0.98)).max(1),
            reservation_ms: millis(door.registry.timing().reservation.saturating_sub(now - self.since)),
        };
        self.stage = Stage::Sent;
        let outcome = link.spawn(message, &self.request, deadline).await;
        door.metrics.phase(Phase::AgentCall, asked.elapsed());
        if let Err(AgentError::NotSent { .. } | AgentError::Refused { .. }) = outcome {
            self.stage = Stage::Reserved;
        }
        outcome
    }

    /// The answer has been handed over, or the spawn is over: nothing is to be given back.
    pub(crate) fn keep(&mut self) {
        self.stage = Stage::Done;
    }

    /// Gives up a spawn that may have been started. Once this has returned `Ok`, the agent will end it, or never start
    /// it, whatever happens here; asking the agent directly only makes that sooner.
    pub(crate) async fn abandon(mut self) -> Result<(), RegistryError> {
        self.door.metrics.cleanup(CleanupKind::Abandon);
        self.door.registry.abandon(&self.reservation.node, self.reservation.spawn).await?;
        self.stage = Stage::Done;
        let (door, reservation, request) =
            (Arc::clone(&self.door), self.reservation.clone(), self.request.clone());
        self.door.cleanups.spawn(async move { stop(&door, &reservation, &request).await });
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let door = Arc::clone(&self.door);
        let Reservation { node, spawn, .. } = self.reservation.clone();
        match self.stage {
            Stage::Done => {}
            Stage::Reserved => {
                door.metrics.cleanup(CleanupKind::Release);
                self.door.cleanups.spawn(async move {
                    persist("release", || door.registry.release(&node, spawn)).await;
                });
            }
            Stage::Sent => {
                door.metrics.cleanup(CleanupKind::Cancel);
                info!(spawn.id = %spawn, node.id = %node, "spawn cancelled, nobody waits for it any more");
                let (reservation, request) = (self.reservation.clone(), self.request.clone());
                self.door.cleanups.spawn(async move {
                    futures_util::future::join(
                        persist("abandon", || door.registry.abandon(&node, spawn)),
                        stop(&door, &reservation, &request),
                    )
                    .await;
                });
            }
        }
    }
}

/// Best effort: the registry's order reaches the agent with its next heartbeat anyway.
async fn stop(door: &Door, reservation: &Reservation, request: &RequestId) {
    let Reservation { node, spawn, advertise } = reservation;
    match door.agents.stop(node, advertise, *spawn, StopReason::Cancelled, request).await {
        Ok(_) => debug!(spawn.id = %spawn, node.id = %node, "spawn stopped"),
        Err(error) => {
            debug!(spawn.id = %spawn, node.id = %node, %error, "spawn not stopped directly, the heartbeat will");
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
