//! A slot that is held for a request. Whatever happens to the request, the slot is not forgotten: dropping a [`Held`]
//! gives it back, and only [`Held::keep`] lets the spawn live.

use std::sync::Arc;
use std::time::Duration;

use model::{NodeId, RendererType, RequestId, SpawnId};
use registry::{RegistryError, Reservation, Standing};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};
use wire::v1;

use crate::agent_client::{AgentError, Outcome, StopReason};
use crate::metrics::{CleanupKind, Phase};
use crate::registry_access::cleanup::persist;
use crate::spawning::order::Order;
use crate::start::door::Door;

/// While the registry is away, an agent that takes longer than this to confirm an order counts as silent.
const ACKNOWLEDGE: Duration = Duration::from_secs(2);

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
    /// Chosen from the snapshot for this renderer: the registry holds nothing.
    snapshot: Option<RendererType>,
}

impl Held {
    /// `since`: when the reservation was asked for, which is before it began.
    pub(crate) fn new(
        door: &Arc<Door>,
        reservation: Reservation,
        request: RequestId,
        since: Instant,
    ) -> Self {
        Self { door: Arc::clone(door), reservation, request, since, stage: Stage::Reserved, snapshot: None }
    }

    /// A node that was chosen from the snapshot.
    pub(crate) fn from_snapshot(
        door: &Arc<Door>,
        chosen: Reservation,
        request: RequestId,
        renderer: RendererType,
    ) -> Self {
        let mut held = Self::new(door, chosen, request, Instant::now());
        held.snapshot = Some(renderer);
        held
    }

    /// Whether it was chosen from the snapshot.
    pub(crate) fn is_from_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// How the node stood when it was chosen.
    pub(crate) fn standing(&self) -> Standing {
        self.reservation.standing
    }

    /// The number of the place in line that was given up for the slot.
    pub(crate) fn number(&self) -> Option<u64> {
        self.reservation.number
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.reservation.node
    }

    pub(crate) fn spawn(&self) -> SpawnId {
        self.reservation.spawn
    }

    /// Has the agent start the spawn, and waits until it is ready or has ended; for a connection to the agent as long as
    /// `connect`.
    pub(crate) async fn start(
        &mut self,
        order: &Order,
        deadline: Instant,
        connect: Duration,
    ) -> Result<Outcome, AgentError> {
        let asked = Instant::now();
        let door = Arc::clone(&self.door);
        let link = door.agents.link(&self.reservation.node, &self.reservation.advertise, connect).await?;
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
            owner: order.owner.clone().map(Into::into),
            node: self.reservation.node.to_string(),
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
    /// it, whatever happens here: it has the registry's order to come, or, while the registry is away, has taken the order
    /// itself. After an error both go on being tried.
    pub(crate) async fn abandon(mut self) -> Result<(), RegistryError> {
        self.door.metrics.cleanup(CleanupKind::Abandon);
        let (door, reservation, request) =
            (Arc::clone(&self.door), self.reservation.clone(), self.request.clone());
        let abandoned = door.registry.abandon(&reservation.node, reservation.spawn).await;
        match abandoned {
            Ok(()) => {
                // Asking the agent directly only makes it sooner.
                self.door.cleanups.end(async move {
                    stop(&door, &reservation, &request).await;
                });
            }
            Err(error) => {
                let told = timeout(ACKNOWLEDGE, stop(&door, &reservation, &request)).await;
                if !told.unwrap_or_default() {
                    return Err(error);
                }
                self.door.cleanups.spawn(async move { abandon(&door, &reservation).await });
            }
        }
        self.stage = Stage::Done;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let door = Arc::clone(&self.door);
        let Reservation { node, spawn, .. } = self.reservation.clone();
        match (self.stage, self.snapshot) {
            (Stage::Done, _) => {}
            (Stage::Reserved, Some(renderer)) => door.snapshot.give_back(&node, renderer),
            (Stage::Reserved, None) => {
                door.metrics.cleanup(CleanupKind::Release);
                self.door.cleanups.spawn(async move {
                    persist(&door.registry, "release", || door.registry.release(&node, spawn)).await;
                });
            }
            (Stage::Sent, _) => {
                door.metrics.cleanup(CleanupKind::Cancel);
                info!(spawn.id = %spawn, node.id = %node, "spawn cancelled, nobody waits for it any more");
                let (reservation, request) = (self.reservation.clone(), self.request.clone());
                self.door.cleanups.end(end(door, reservation, request));
            }
        }
    }
}

/// Ends a spawn that may have been started: by the agent, and by the registry's order to it.
async fn end(door: Arc<Door>, reservation: Reservation, request: RequestId) {
    let Reservation { node, spawn, .. } = &reservation;
    let stop = async {
        let _turn = door.cleanups.turn().await;
        stop(&door, &reservation, &request).await
    };
    let (stopped, abandoned) = futures_util::future::join(stop, door.registry.abandon(node, *spawn)).await;
    if abandoned.is_ok() {
        return;
    }
    if stopped {
        // The agent has ended it. What is left is the reservation, which expires by itself.
        let registry = Arc::clone(&door);
        door.cleanups.spawn(async move { abandon(&registry, &reservation).await });
    } else {
        abandon(&door, &reservation).await;
    }
}

/// Sees to it that the registry orders the agent to give the spawn up.
async fn abandon(door: &Door, Reservation { node, spawn, .. }: &Reservation) {
    persist(&door.registry, "abandon", || door.registry.abandon(node, *spawn)).await;
}

/// Best effort: the registry's order reaches the agent with its next heartbeat anyway. Whether the agent has taken it.
async fn stop(door: &Door, reservation: &Reservation, request: &RequestId) -> bool {
    let Reservation { node, spawn, advertise, .. } = reservation;
    match door.agents.stop(node, advertise, *spawn, StopReason::Cancelled, request).await {
        Ok(_) => {
            debug!(spawn.id = %spawn, node.id = %node, "spawn stopped");
            true
        }
        Err(error) => {
            debug!(spawn.id = %spawn, node.id = %node, %error, "spawn not stopped directly, the heartbeat will");
            false
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
