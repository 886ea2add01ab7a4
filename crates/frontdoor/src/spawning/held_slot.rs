//! A slot that is held for a request.
//!
//! ```text
//!            start()            agent refused, or nothing was sent
//!  Reserved ─────────▶ Sent ──────────────────────────────────────▶ Reserved
//!     │                 │
//!     │ drop            ├─ keep(): answered, or the process has ended ─▶ Done
//!     ▼                 ├─ abandon(): the outcome is unknown ──────────▶ Done
//!  release              └─ drop: the caller left ─▶ the agent and the registry end the spawn
//! ```
//!
//! Invariant: whatever happens to the request, the slot is not forgotten. Dropping a [`HeldSlot`] gives it back, and only
//! [`HeldSlot::keep`] lets the spawn live.
//!
//! Failure: a release or an end that the registry does not take is repeated as a clean-up; after that the reservation expires.

use std::sync::Arc;
use std::time::Duration;

use model::{NodeId, Phases, RendererType, RequestId, SpawnId, SpawnRecord};
use registry::{RegistryError, Reservation, Standing};
use tokio::time::{Instant, timeout};
use traces::Trace;
use tracing::{debug, info};
use wire::v1;
use wire::v1::refused::Reason;

use super::order::{EndpointChoice, SpawnOrder};
use crate::agent_client::{AgentError, Agents, StartOutcome, StopReason};
use crate::metrics::{CleanupKind, SpawnMetrics, SpawnPhase};
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::cleanup::{Cleanups, persist};
use crate::registry_access::snapshot::Snapshot;
use crate::request_context::RequestContext;
use crate::settings::Lives;

/// While the registry is away, an agent that takes longer than this to acknowledge an order counts as silent.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a slot is started with, and given back through.
#[derive(Debug)]
pub(crate) struct SlotAccess {
    pub(crate) registry: Arc<RegistryClient>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) cleanups: Cleanups,
    pub(crate) metrics: SpawnMetrics,
    /// The form of endpoints that lead through this front door; `None`: the agents' own.
    pub(crate) endpoint_form: Option<String>,
    /// How long spawns may live.
    pub(crate) lives: Lives,
}

/// How far the spawn has come that the slot is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    /// The agent has not heard of it: the slot can simply be released.
    Reserved,
    /// The agent may have started it: it must end it, or never start it.
    Sent,
    /// The spawn lives without the request, or is over: nothing is given back.
    Done,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct HeldSlot {
    access: Arc<SlotAccess>,
    reservation: Reservation,
    request: RequestContext,
    since: Instant,
    /// When the slot was had.
    reserved: Instant,
    stage: SlotState,
    /// Chosen from the snapshot for this renderer: the registry holds nothing.
    snapshot: Option<RendererType>,
}

impl HeldSlot {
    /// `since`: when the reservation was asked for, which is before it began.
    pub(crate) fn new(
        access: &Arc<SlotAccess>,
        reservation: Reservation,
        request: RequestContext,
        since: Instant,
    ) -> Self {
        Self {
            access: Arc::clone(access),
            reservation,
            request,
            since,
            reserved: Instant::now(),
            stage: SlotState::Reserved,
            snapshot: None,
        }
    }

    /// A node that was chosen from the snapshot.
    pub(crate) fn from_snapshot(
        access: &Arc<SlotAccess>,
        chosen: Reservation,
        request: RequestContext,
        renderer: RendererType,
    ) -> Self {
        let mut held = Self::new(access, chosen, request, Instant::now());
        held.snapshot = Some(renderer);
        held
    }

    /// The agent refused: nothing was started. Dropping the slot releases it.
    pub(crate) fn refused(&self, reason: Reason) {
        let SlotAccess { agents, snapshot, .. } = &*self.access;
        if reason == Reason::WrongNode {
            agents.is_elsewhere(self.node());
        }
        if self.snapshot.is_some() {
            snapshot.refused(self.node(), reason);
        }
    }

    /// How the node stood when it was chosen.
    pub(crate) fn standing(&self) -> Standing {
        self.reservation.standing
    }

    /// How long the server must live after it was ready before its caller is answered.
    pub(super) fn proof(&self) -> Duration {
        self.reservation.proof
    }

    /// The spawn as the registry has it; `None` while it cannot be asked or does not have it.
    pub(super) async fn record(&self) -> Option<SpawnRecord> {
        self.access.registry.spawn(self.spawn()).await.ok().flatten()
    }

    /// The last lines that the spawn wrote; none where the agent cannot be asked.
    pub(super) async fn last_lines(&self, lines: u32) -> Vec<String> {
        let Reservation { node, advertise, spawn, .. } = &self.reservation;
        let read = self.access.agents.read_log(node, advertise, *spawn, lines, &self.request.id).await;
        read.ok().flatten().unwrap_or_default()
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
    /// `connect`. The agent's part of the trace is below `trace`; the request
    /// has `waited` in line.
    pub(crate) async fn start(
        &mut self,
        order: &SpawnOrder,
        deadline: Instant,
        connect: Duration,
        (trace, waited): (&Trace, Duration),
    ) -> Result<StartOutcome, AgentError> {
        let asked = Instant::now();
        let access = Arc::clone(&self.access);
        let link = access.agents.link(&self.reservation.node, &self.reservation.advertise, connect).await?;
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let message = v1::SpawnRequest {
            spawn_id: self.reservation.spawn.to_string(),
            renderer_type: v1::RendererType::from(order.demand.renderer).into(),
            model: order.model.clone(),
            session_token: order.session_token.clone(),
            labels: order.demand.labels.clone().into_iter().collect(),
            tags: order.tags.clone().into_iter().collect(),
            // A little less than is left, so that the agent's verdict and the log lines arrive while this request still waits.
            deadline_ms: millis(left.mul_f64(0.98)).max(1),
            reservation_ms: millis(access.registry.timing().reservation.saturating_sub(now - self.since)),
            owner: order.owner.clone().map(Into::into),
            node: self.reservation.node.to_string(),
            endpoint: match &order.endpoint {
                EndpointChoice::Usual => access.endpoint_form.clone(),
                EndpointChoice::Agent => None,
                EndpointChoice::Given(form) => Some(form.clone()),
            },
            max_life_ms: order.max_life.or(access.lives.max_life).map(millis),
            max_idle_ms: access.lives.max_idle.map(millis),
        };
        let began = self.request.began;
        let phases = Phases {
            waited_ms: (!waited.is_zero()).then(|| millis(waited)),
            reserved_ms: millis(self.reserved.saturating_duration_since(began)),
            sent_ms: millis(now.saturating_duration_since(began)),
        };
        self.stage = SlotState::Sent;
        let outcome = link.spawn(message, (&self.request, trace, &phases), deadline).await;
        access.metrics.phase(SpawnPhase::AgentCall, asked.elapsed(), trace);
        if let Err(AgentError::NotSent { .. } | AgentError::Refused { .. }) = outcome {
            self.stage = SlotState::Reserved;
        }
        outcome
    }

    /// The answer has been handed over, or the spawn is over: nothing is given back any more.
    pub(crate) fn keep(&mut self) {
        self.stage = SlotState::Done;
    }

    /// Gives up a spawn that may have been started. Once this has returned `Ok`, the agent will end it, or never start
    /// it, whatever happens here: the registry's order will reach it, or, while the registry is away, it has acknowledged the
    /// order itself. After an error both go on being tried.
    pub(crate) async fn abandon(mut self) -> Result<(), RegistryError> {
        self.access.metrics.cleanup(CleanupKind::Abandon);
        let (access, reservation, request) =
            (Arc::clone(&self.access), self.reservation.clone(), self.request.id.clone());
        let abandoned = access.registry.abandon(&reservation.node, reservation.spawn).await;
        match abandoned {
            Ok(()) => {
                // Asking the agent directly only makes it sooner.
                self.access.cleanups.end(async move {
                    stop(&access, &reservation, &request).await;
                });
            }
            Err(error) => {
                let acknowledged = timeout(ACKNOWLEDGE_TIMEOUT, stop(&access, &reservation, &request)).await;
                if !acknowledged.unwrap_or_default() {
                    return Err(error);
                }
                self.access.cleanups.spawn(async move { abandon(&access, &reservation).await });
            }
        }
        self.stage = SlotState::Done;
        Ok(())
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        let access = Arc::clone(&self.access);
        let Reservation { node, spawn, .. } = self.reservation.clone();
        match (self.stage, self.snapshot) {
            (SlotState::Done, _) => {}
            (SlotState::Reserved, Some(renderer)) => access.snapshot.give_back(&node, renderer),
            (SlotState::Reserved, None) => {
                access.metrics.cleanup(CleanupKind::Release);
                self.access.cleanups.spawn(async move {
                    persist(&access.registry, "release", || access.registry.release(&node, spawn)).await;
                });
            }
            (SlotState::Sent, _) => {
                access.metrics.cleanup(CleanupKind::Cancel);
                info!(spawn.id = %spawn, node.id = %node, requestId = %self.request.id, "spawn cancelled: the caller left");
                let (reservation, request) = (self.reservation.clone(), self.request.id.clone());
                self.access.cleanups.end(end(access, reservation, request));
            }
        }
    }
}

/// Ends a spawn that may have been started: by the agent, and by the registry's order to it.
async fn end(access: Arc<SlotAccess>, reservation: Reservation, request: RequestId) {
    let Reservation { node, spawn, .. } = &reservation;
    let stop = async {
        let _permit = access.cleanups.permit().await;
        stop(&access, &reservation, &request).await
    };
    let (stopped, abandoned) = futures_util::future::join(stop, access.registry.abandon(node, *spawn)).await;
    if abandoned.is_ok() {
        return;
    }
    if stopped {
        // The agent has ended it. What is left is the reservation, which expires by itself.
        let registry = Arc::clone(&access);
        access.cleanups.spawn(async move { abandon(&registry, &reservation).await });
    } else {
        abandon(&access, &reservation).await;
    }
}

/// Sees to it that the registry orders the agent to give the spawn up.
async fn abandon(access: &SlotAccess, Reservation { node, spawn, .. }: &Reservation) {
    persist(&access.registry, "abandon", || access.registry.abandon(node, *spawn)).await;
}

/// Best effort: the registry's order reaches the agent with its next heartbeat anyway. Returns whether the agent acknowledged.
async fn stop(access: &SlotAccess, reservation: &Reservation, request: &RequestId) -> bool {
    let Reservation { node, spawn, advertise, .. } = reservation;
    match access.agents.stop(node, advertise, *spawn, StopReason::Cancelled, request).await {
        Ok(_) => {
            debug!(spawn.id = %spawn, node.id = %node, requestId = %request, "spawn stopped");
            true
        }
        Err(error) => {
            debug!(spawn.id = %spawn, node.id = %node, requestId = %request, %error, "spawn not stopped directly, the heartbeat will");
            false
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
