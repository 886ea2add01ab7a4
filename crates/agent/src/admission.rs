//! Admission: from a request to a running process, or to the reason why there is none.
//!
//! ```text
//! request ─▶ model inside its directories? ─▶ memory, disk, table.admit ─▶ supervision::run (a task of its own)
//!    │                                            │                            │
//!    ▼                                            ▼                            ▼
//!  join: the id is here already               refused                 ready · ended · refused, to every caller
//! ```
//!
//! A [`WaitingCaller`] waits for the answer and no longer than its deadline. A request that is repeated joins the spawn that the first one started.
//! When the last caller leaves without an answer, the spawn is ended: dropping a [`WaitingCaller`] is enough. The table decides
//! ([`crate::table::Table::admit`]); nothing here holds a slot.

use std::sync::Arc;
use std::time::Duration;

use model::{Exit, SpawnId};
use tokio::sync::watch;
use tokio::time::Instant;
use traces::Span;
use traces::attribute::OUTCOME;
use tracing::Instrument;

use crate::models;
use crate::node::Node;
use crate::port_search;
use crate::spawn::exit::Cause;
use crate::spawn::{Facts, Refusal, RefusalKind, SpawnOutcome};
use crate::supervision::start::StartRequest;
use crate::supervision::{run, traced};
use crate::table::entrance::{Admission, Needs, Source, SpawnSpec};

/// How long an answer waits for the registry to acknowledge the spawn.
const REGISTRY_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a warm server may take to end whose memory is wanted.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the check of the model directories may take.
const SHARE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a front door asks for.
#[derive(Debug, Clone)]
pub(crate) struct AdmissionRequest {
    pub(crate) spec: SpawnSpec,
    pub(crate) order: StartRequest,
    /// How long the caller waits for the answer; absent when it has not said.
    pub(crate) timeout: Option<Duration>,
    /// What is left of the reservation. Zero: it has expired, and must not start.
    pub(crate) reservation: Duration,
}

/// A call that waits for a spawn. When the last one is dropped without an answer, the spawn is ended.
#[derive(Debug)]
pub(crate) struct WaitingCaller {
    node: Arc<Node>,
    id: SpawnId,
    answer: watch::Receiver<Option<SpawnOutcome>>,
    /// When the caller must have heard something.
    until: Instant,
    answered: bool,
}

/// Starts a spawn, or joins one that was started by an earlier call.
pub(crate) async fn spawn(node: &Arc<Node>, request: &AdmissionRequest) -> Result<WaitingCaller, Refusal> {
    // It goes on until the process runs, see `run`.
    let mut start = Some(traced::begin(node, &request.order, request.spec.id));
    let checked = match &request.order.model {
        Some(model) => check_model(node, model, request.timeout).await,
        None => Ok(()),
    };
    let mut result = checked.and_then(|()| try_spawn(node, request, &mut start));
    // Warm servers end first where memory is short.
    let kept = node.table().warm_servers();
    for _ in 0..kept {
        if !matches!(&result, Err(refusal) if refusal.kind == RefusalKind::LowMemory) {
            break;
        }
        let gone = node.table().end_one_for_memory();
        let Some(gone) = gone else { break };
        if tokio::time::timeout(MEMORY_TIMEOUT, gone.cancelled()).await.is_err() {
            break;
        }
        result = try_spawn(node, request, &mut start);
    }
    // For the log alone: a caller learns nothing of other processes.
    let mut listeners = None;
    match &result {
        Err(refusal) if refusal.kind == RefusalKind::NoPort => listeners = port_search::explain(node).await,
        _ => port_search::start(node),
    }
    if let Err(refusal) = &result {
        node.metrics.refused(refusal.kind);
        if let Some(start) = start.take() {
            start.end_failed(refusal.kind.as_str(), &refusal.detail);
        }
        tracing::warn!(
            spawn.id = %request.spec.id,
            node.id = %node.config.node,
            requestId = %request.order.request_id,
            traceId = request.order.trace.id().map(display),
            renderer = %request.spec.renderer,
            model = request.order.model,
            reason = refusal.kind.as_str(),
            detail = refusal.detail,
            listeners,
            "spawn refused"
        );
    }
    result
}

/// Checks the model on the disk's threads: model directories are often on a share, and a share that hangs must not stop the agent.
async fn check_model(node: &Arc<Node>, model: &str, timeout: Option<Duration>) -> Result<(), Refusal> {
    let (shared, model) = (Arc::clone(node), model.to_owned());
    let check = move || models::check(&model, &shared.config.model_dirs);
    let within = timeout.map_or(SHARE_TIMEOUT, |timeout| timeout.mul_f64(0.9).min(SHARE_TIMEOUT));
    match node.disk.models.call(within, check).await {
        Ok(result) => result,
        Err(error) => Err(RefusalKind::CannotStart.because(format!("failed to look for the model: {error}"))),
    }
}

fn try_spawn(
    node: &Arc<Node>,
    request: &AdmissionRequest,
    start: &mut Option<Span>,
) -> Result<WaitingCaller, Refusal> {
    let now = Instant::now();
    let id = request.spec.id;
    // The answer must be on its way a little before the caller gives up, or the caller never learns why.
    let timeout = request.timeout.map(|t| t - (t / 10).min(Duration::from_millis(500)));
    let until =
        now + timeout.unwrap_or(node.config.ready_timeout + node.config.stop_grace + Duration::from_secs(5));
    let caller = |answer| WaitingCaller { node: Arc::clone(node), id, answer, until, answered: false };
    let joined = node.table().join(id, now);
    if let Some(answer) = joined {
        end_joined(start);
        return Ok(caller(answer));
    }
    if request.reservation.is_zero() {
        return Err(RefusalKind::Abandoned.because("the reservation has expired"));
    }
    let is_special = request.order.needs_own_server();
    let needs = Needs { is_special, no_start: enough_memory(node.config.min_free_memory).err() };
    if let Some(trouble) = node.state.journal.trouble() {
        node.state.journal.check();
        let path = node.config.state_dir.display();
        return Err(RefusalKind::CannotStart
            .because(format!("the state directory {path} cannot be written: {trouble}")));
    }
    if let Some(relay) = node.config.viewer_relay.as_ref().filter(|_| node.viewer_relay.is_gone()) {
        let why = format!("the relay of this node ({relay}) does not answer, so no viewer could connect");
        return Err(RefusalKind::CannotStart.because(why));
    }
    let renderer = request.spec.renderer;
    let (admission, missed) = {
        let mut table = node.table();
        let missed = table.why_missed(renderer, is_special);
        (table.admit_with(request.spec.clone(), needs, now), missed)
    };
    let (admitted, answer) = match admission {
        Admission::New(admitted, answer) => {
            if let (Source::Start { .. }, Some(missed)) = (&admitted.source, missed) {
                node.metrics.warm_missed(missed);
            }
            (admitted, answer)
        }
        Admission::Joined(answer) => {
            end_joined(start);
            return Ok(caller(answer));
        }
        Admission::Refused(refusal) => return Err(refusal),
    };
    // Its level is that of the least that a log may show: lines of every level name the request.
    let span = tracing::error_span!(
        "spawn",
        spawn.id = %id,
        requestId = %request.order.request_id,
        traceId = request.order.trace.id().map(display),
        node.id = %node.config.node,
    );
    let order = request.order.clone();
    let owner = run::run(Arc::clone(node), admitted, (order, start.take()), until);
    node.drivers.spawn(owner.instrument(span));
    Ok(caller(answer))
}

/// Ends the part `start` of a call whose spawn an earlier call has started.
fn end_joined(start: &mut Option<Span>) {
    if let Some(start) = start.take() {
        start.note(OUTCOME, "joined");
        start.end();
    }
}

fn enough_memory(min_free: u64) -> Result<(), Refusal> {
    if min_free == 0 {
        return Ok(());
    }
    match machine::memory::free() {
        Some(free) if free < min_free => {
            Err(RefusalKind::LowMemory
                .because(format!("{free} bytes of memory are free, {min_free} are wanted")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Read-your-writes: waits for the registry to acknowledge change `serial`, so that a caller that asks for the spawn right after
/// the answer finds it. A registry that is slow or away costs no more than [`REGISTRY_TIMEOUT`].
pub(crate) async fn await_registry(node: &Node, serial: u64) {
    if !node.registry_up() {
        return;
    }
    let wait = node.table().wait_for_change(serial);
    if let Some(wait) = wait
        && tokio::time::timeout(REGISTRY_TIMEOUT, wait).await.is_err()
    {
        tracing::debug!(serial, "answering before the registry knows");
    }
}

impl WaitingCaller {
    /// Waits for the answer, no longer than the caller does.
    pub(crate) async fn answer(mut self) -> Reply {
        let until = self.until;
        let answer = match tokio::time::timeout_at(until, self.answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone(),
            // The driver is gone without a word: the agent leaves its spawns to the next one.
            Ok(Err(_)) => {
                Some(SpawnOutcome::Refused(RefusalKind::ShuttingDown.because("the agent is going away")))
            }
            Err(_elapsed) => None,
        };
        let reply = match answer {
            Some(SpawnOutcome::Ready { start_to_ready, serial }) => {
                await_registry(&self.node, serial).await;
                match self.facts() {
                    Some(facts) => Reply::Ready { facts, start_to_ready },
                    None => Reply::Late,
                }
            }
            Some(SpawnOutcome::Ended { exit, log, serial }) => {
                await_registry(&self.node, serial).await;
                Reply::Ended { exit, log }
            }
            Some(SpawnOutcome::Refused(refusal)) => Reply::Refused(refusal),
            None => self.late().await,
        };
        self.answered = !matches!(reply, Reply::Late);
        reply
    }

    fn facts(&self) -> Option<Arc<Facts>> {
        self.node.table().facts(self.id, Instant::now())
    }

    /// The caller can wait no longer, not even for the process to be gone. Others that wait for it may.
    async fn late(&self) -> Reply {
        let cause = {
            let mut table = self.node.table();
            let now = Instant::now();
            let started = table.facts(self.id, now).map_or(now, |facts| facts.started);
            let queued = table.is_queued(self.id);
            let unheard = !queued && table.was_deaf_since(started);
            let cause = if unheard { Cause::Unheard } else { Cause::ReadyTimeout };
            if !table.end_unless_shared(self.id, cause, now) {
                return Reply::Late;
            }
            if queued {
                return Reply::Refused(RefusalKind::StartsBusy.because(table.busy()));
            }
            cause
        };
        let exit = Exit { reason: cause.reason(), code: None, signal: None, text: cause.text() };
        Reply::Ended { exit, log: self.node.last_words(self.id).await }
    }
}

impl Drop for WaitingCaller {
    fn drop(&mut self) {
        self.node.table().leave(self.id, self.answered, Instant::now());
    }
}

/// The answer to one caller.
#[derive(Debug)]
pub(crate) enum Reply {
    Ready {
        facts: Arc<Facts>,
        start_to_ready: Duration,
    },
    Ended {
        exit: Exit,
        log: Vec<String>,
    },
    Refused(Refusal),
    /// Nothing is known yet, and others still wait.
    Late,
}
