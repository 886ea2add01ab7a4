//! From a request to a running process, or to the reason why not.

use std::sync::Arc;
use std::time::Duration;

use model::{Exit, SpawnId};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

use crate::intruders;
use crate::models;
use crate::node::Node;
use crate::spawn::exit::Cause;
use crate::spawn::start::{self, Order, START_TIMEOUT};
use crate::spawn::{Answer, Facts, Refusal, Why};
use crate::table::entrance::{Admission, Ask};

/// The longest an answer waits for the registry to know of the spawn.
const REGISTRY_PATIENCE: Duration = Duration::from_millis(250);

/// The longest a look into the model directories may take.
const SHARE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a front door asks for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) ask: Ask,
    pub(crate) order: Order,
    /// How long the caller will wait.
    pub(crate) patience: Option<Duration>,
    /// How long its reservation is still good for.
    pub(crate) reservation: Duration,
}

/// Someone who waits for a spawn. When the last one goes away without an answer, the spawn is ended.
#[derive(Debug)]
pub(crate) struct Caller {
    node: Arc<Node>,
    id: SpawnId,
    answer: watch::Receiver<Option<Answer>>,
    /// When the caller must have heard something.
    until: Instant,
    answered: bool,
}

/// Starts a spawn, or joins one that was started by an earlier call.
pub(crate) async fn spawn(node: &Arc<Node>, request: &Request) -> Result<Caller, Refusal> {
    let checked = match &request.order.model {
        Some(model) => check_model(node, model, request.patience).await,
        None => Ok(()),
    };
    let result = checked.and_then(|()| try_spawn(node, request));
    // For the log alone: a caller learns nothing of other processes.
    let mut listeners = None;
    match &result {
        Err(refusal) if refusal.why == Why::NoPort => listeners = intruders::explain(node).await,
        _ => intruders::look(node),
    }
    if let Err(refusal) = &result {
        node.metrics.refused(refusal.why);
        tracing::info!(
            spawn.id = %request.ask.id,
            request.id = %request.order.request_id,
            reason = refusal.why.as_str(),
            detail = refusal.detail,
            listeners,
            "spawn refused"
        );
    }
    result
}

/// Model directories are often on a share, and a share that hangs must not take the agent with it.
async fn check_model(node: &Arc<Node>, model: &str, timeout: Option<Duration>) -> Result<(), Refusal> {
    let (shared, model) = (Arc::clone(node), model.to_owned());
    let check = move || models::check(&model, &shared.config.model_dirs);
    let within = timeout.map_or(SHARE_TIMEOUT, |timeout| timeout.mul_f64(0.9).min(SHARE_TIMEOUT));
    match node.disk.models.call(within, check).await {
        Ok(result) => result,
        Err(error) => Err(Why::CannotStart.because(format!("failed to look for the model: {error}"))),
    }
}

fn try_spawn(node: &Arc<Node>, request: &Request) -> Result<Caller, Refusal> {
    let now = Instant::now();
    let id = request.ask.id;
    // The answer must be on its way a little before the caller gives up, or nobody learns why.
    let patience = request.patience.map(|p| p - (p / 10).min(Duration::from_millis(500)));
    let ready_within = patience.map_or(node.config.ready_timeout, |p| p.min(node.config.ready_timeout));
    let until =
        now + patience.unwrap_or(node.config.ready_timeout + node.config.stop_grace + Duration::from_secs(5));
    let caller = |answer| Caller { node: Arc::clone(node), id, answer, until, answered: false };
    let joined = node.table().join(id, now);
    if let Some(answer) = joined {
        return Ok(caller(answer));
    }
    if request.reservation.is_zero() {
        return Err(Why::Abandoned.because("the reservation has expired"));
    }
    enough_memory(node.config.min_free_memory)?;
    if let Some(trouble) = node.state.journal.trouble() {
        node.state.journal.check();
        let path = node.config.state_dir.display();
        return Err(
            Why::CannotStart.because(format!("the state directory {path} cannot be written: {trouble}"))
        );
    }
    // The caller's own time is over at `until`; a start that hangs is refused before.
    let start_within = until.saturating_duration_since(now).mul_f64(0.9).min(START_TIMEOUT);
    let admission = node.table().admit(request.ask.clone(), now);
    let (admitted, answer) = match admission {
        Admission::New(admitted, answer) => (admitted, answer),
        Admission::Joined(answer) => return Ok(caller(answer)),
        Admission::Refused(refusal) => return Err(refusal),
    };
    let span = tracing::info_span!(
        "spawn",
        spawn.id = %id,
        request.id = %request.order.request_id,
        node.id = %node.config.node,
    );
    let owner =
        start::run(Arc::clone(node), admitted, request.order.clone(), start_within, now + ready_within);
    node.drivers.spawn(owner.instrument(span));
    Ok(caller(answer))
}

fn enough_memory(min_free: u64) -> Result<(), Refusal> {
    if min_free == 0 {
        return Ok(());
    }
    match machine::memory::free() {
        Some(free) if free < min_free => {
            Err(Why::LowMemory.because(format!("{free} bytes of memory are free, {min_free} are wanted")))
        }
        Some(_) | None => Ok(()),
    }
}

impl Caller {
    /// Waits for the answer, no longer than the caller does.
    pub(crate) async fn answer(mut self) -> Reply {
        let until = self.until;
        let answer = match tokio::time::timeout_at(until, self.answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone(),
            // The driver is gone without a word: the agent leaves its spawns to the next one.
            Ok(Err(_)) => Some(Answer::Refused(Why::ShuttingDown.because("the agent is going away"))),
            Err(_elapsed) => None,
        };
        let reply = match answer {
            Some(Answer::Ready { start_to_ready, serial }) => {
                self.let_the_registry_know(serial).await;
                match self.facts() {
                    Some(facts) => Reply::Ready { facts, start_to_ready },
                    None => Reply::Late,
                }
            }
            Some(Answer::Ended { exit, log, serial }) => {
                self.let_the_registry_know(serial).await;
                Reply::Ended { exit, log }
            }
            Some(Answer::Refused(refusal)) => Reply::Refused(refusal),
            None => self.late().await,
        };
        self.answered = !matches!(reply, Reply::Late);
        reply
    }

    fn facts(&self) -> Option<Arc<Facts>> {
        self.node.table().facts(self.id, Instant::now())
    }

    /// Whoever asks for the spawn right after the answer must find it.
    async fn let_the_registry_know(&self, serial: u64) {
        if !self.node.registry_up() {
            return;
        }
        let wait = self.node.table().wait_for_change(serial);
        if let Some(wait) = wait
            && tokio::time::timeout(REGISTRY_PATIENCE, wait).await.is_err()
        {
            tracing::debug!(spawn.id = %self.id, "answering before the registry knows");
        }
    }

    /// The caller can wait no longer, not even for the process to be gone. Others that wait for it may.
    async fn late(&self) -> Reply {
        let cause = {
            let mut table = self.node.table();
            let now = Instant::now();
            let started = table.facts(self.id, now).map_or(now, |facts| facts.started);
            let unheard = table.was_deaf_since(started);
            let cause = if unheard { Cause::Unheard } else { Cause::ReadyTimeout };
            if !table.end_unless_shared(self.id, cause, now) {
                return Reply::Late;
            }
            cause
        };
        let exit = Exit { reason: cause.reason(), code: None, signal: None, text: cause.text() };
        Reply::Ended { exit, log: self.node.last_words(self.id).await }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.node.table().leave(self.id, self.answered, Instant::now());
    }
}

/// What a caller is told.
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
