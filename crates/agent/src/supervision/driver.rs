//! The driver: the one task that owns one spawn, from the start of its process (or its adoption) to its end.
//!
//! Others never touch the process. They leave their requests in the spawn's inbox in the table and wake the driver. Each wake-up takes in, in this
//! order: the end of the process, the agent's own end, requests and reports, the timer. So an end is never overlooked, and a report that has
//! arrived is never judged as missing. What happens in which state is in [`crate::spawn::lifecycle`], as a pure function.
//!
//! Ownership at the end: the table gives back slot, port and GPU, the journal keeps the end until the registry has accepted it, and a control group
//! or [`crate::spawn::leftovers`] ends what the process has left behind. A driver that panics kills its process and reports its spawn as failed.

use std::sync::Arc;
use std::time::Duration;

use model::{Exit, ExitReason, Origin, SpawnId, SpawnState};
use tokio::sync::watch;
use tokio::time::Instant;
use traces::{Exemplar, Span};

use super::start::{StartRequest, start_again};
use super::traced::await_ready;
use crate::node::Node;
use crate::ports;
use crate::spawn::SpawnOutcome;
use crate::spawn::body::Body;
use crate::spawn::cgroup::Group;
use crate::spawn::exit::{self, Status};
use crate::spawn::lifecycle::{Effects, Input, Phase, Rules, Signal};
use crate::start_gate::StartPermit;
use crate::state::record::JournalEvent;
use crate::table::Inbox;
use crate::table::entrance::Admitted;

/// How long a `disconnect` may arrive after the end of a process whose exit code is not known.
const LAST_REPORT: Duration = Duration::from_millis(100);
/// Ends that the registry has not accepted are kept on the disk, up to so many.
const MAX_UNREPORTED: usize = 10_000;

/// One spawn is started so often in all before a node gives up finding it a port.
const MAX_STARTS: u32 = 5;

#[derive(Debug)]
pub(crate) struct Driver {
    node: Arc<Node>,
    admitted: Admitted,
    body: Body,
    phase: Phase,
    rules: Rules,
    /// Since when silence counts, see [`crate::table::Table::awake`].
    since: Instant,
    /// Its process has ended: no caller gets `ready` any more.
    over: bool,
    /// What it was started from, as long as it may have to be started again.
    order: Option<StartRequest>,
    /// How often it may still be.
    starts_left: u32,
    /// The part of the trace that lasts until it is ready.
    part: Option<Span>,
    /// When its process was started, in this life of the agent.
    began: Instant,
    /// Others wait for their turn to start while it is held: until it is ready or has ended.
    permit: Option<StartPermit>,
}

impl Driver {
    /// A driver for a process that was started at `began` and has until then to say `ready`.
    pub(crate) fn new(
        node: Arc<Node>,
        admitted: Admitted,
        body: Body,
        order: StartRequest,
        (began, until): (Instant, Instant),
        permit: Option<StartPermit>,
    ) -> Self {
        let rules = node.rules.clone();
        let mut driver = Self::from(node, admitted, body, Phase::Launching { until }, rules);
        driver.part = Some(await_ready(&driver.node, &order, driver.id()));
        driver.order = Some(order);
        driver.began = began;
        driver.permit = permit;
        driver
    }

    /// A driver for a process that has come as far as this, and reports as these rules expect.
    pub(crate) fn from(node: Arc<Node>, admitted: Admitted, body: Body, phase: Phase, rules: Rules) -> Self {
        let now = Instant::now();
        Self {
            node,
            admitted,
            body,
            phase,
            rules,
            since: now,
            over: false,
            order: None,
            starts_left: MAX_STARTS - 1,
            part: None,
            began: now,
            permit: None,
        }
    }

    /// The same for a process that is not ready: others wait meanwhile.
    pub(crate) fn starting(mut self, permit: StartPermit) -> Self {
        self.permit = Some(permit);
        self
    }

    pub(crate) fn id(&self) -> SpawnId {
        self.admitted.facts.id
    }

    /// The request that it comes from.
    pub(crate) fn origin(&self) -> &Origin {
        &self.admitted.facts.origin
    }

    /// Runs until the process has ended, or the agent leaves it to the next one.
    pub(crate) async fn run(mut self) {
        loop {
            let wake = self.wake();
            tokio::select! {
                biased;
                // An end is the truth, whatever else is known or due.
                status = self.body.ended() => {
                    if self.lost_its_port(status).await && self.start_elsewhere().await {
                        continue;
                    }
                    if status == Status::Unknown {
                        tokio::time::sleep(LAST_REPORT).await;
                    }
                    let group = self.body.group().cloned();
                    self.finish(status).await;
                    match (group, &self.body) {
                        (Some(group), _) => group.remove().await,
                        (None, Body::Process(_)) => self.node.leftovers.of(self.admitted.facts.process_id()),
                        (None, Body::Nothing { .. }) => {}
                    }
                    return;
                }
                // The agent goes and leaves the process to its successor.
                () = self.node.leaving.cancelled() => {
                    tracing::info!("spawn left running for the next agent");
                    return;
                }
                // Requests and reports come before timers: a report that has arrived must not be judged as missing.
                () = self.admitted.notify.notified() => self.attend(),
                () = tokio::time::sleep_until(wake) => self.attend(),
            }
        }
    }

    /// Whether it could not listen because another process took its port between the test and its own attempt: the system does for
    /// a connection to elsewhere, or another agent on this machine for a spawn of its own.
    async fn lost_its_port(&self, status: Status) -> bool {
        let Phase::Launching { .. } = self.phase else { return false };
        status == exit::CANNOT_LISTEN
            && self.order.is_some()
            && self.admitted.facts.server.is_none()
            && self.starts_left > 0
            && (!ports::is_free(self.admitted.facts.port)
                || exit::says_it_cannot_listen(&self.node.last_words(self.id()).await))
    }

    /// Starts it again on another port, unless its end is wanted. The process before it has ended, so there are never two.
    async fn start_elsewhere(&mut self) -> bool {
        let (Some(order), Phase::Launching { until }) = (&self.order, self.phase) else { return false };
        let Some(facts) = self.node.table().relocate(self.id()) else { return false };
        let taken = self.admitted.facts.port;
        tracing::warn!(taken, port = facts.port, "a port was taken meanwhile, starting again on another one");
        self.node.metrics.ports_lost.inc();
        self.starts_left -= 1;
        self.admitted.facts = facts;
        if let Some(group) = self.body.group().cloned() {
            group.remove().await;
        }
        match start_again(&self.node, &self.admitted.facts, order, until).await {
            Some(Body::Process(process)) => {
                self.node.table().restarted(self.id(), process.pid());
                self.body = Body::Process(process);
                true
            }
            Some(Body::Nothing { .. }) | None => false,
        }
    }

    fn wake(&self) -> Instant {
        let due = self.phase.deadline(self.heard(), &self.rules);
        let due = due.into_iter().chain(self.expires()).min();
        due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    /// When it is ended at the latest, unless it is being ended.
    fn expires(&self) -> Option<Instant> {
        match self.phase.progress() {
            exit::Progress::Ending(_) => None,
            _ => self.node.table().expires(self.id()),
        }
    }

    fn heard(&self) -> Instant {
        let heard = self.node.table().last_heard(self.id()).unwrap_or(self.admitted.facts.started);
        heard.max(self.since)
    }

    /// Takes in everything that has come, and looks at the time.
    fn attend(&mut self) {
        let now = Instant::now();
        let (inbox, since, stall) = {
            let mut table = self.node.table();
            (table.collect(self.id()), table.awake(now), table.stall())
        };
        if since > self.since {
            self.since = since;
            self.phase = self.phase.extend(since + stall);
        }
        self.take_in(inbox, now);
        if let Phase::Launching { until } = self.phase
            && until <= now
            && self.node.table().was_deaf_since(self.admitted.facts.started)
        {
            self.step(Input::End(exit::Cause::Unheard), now);
        }
        if self.expires().is_some_and(|at| at <= now) {
            self.step(Input::End(exit::Cause::Expired), now);
        }
        let heard = self.heard();
        self.step(Input::Tick { heard }, now);
    }

    fn take_in(&mut self, inbox: Inbox, now: Instant) {
        if inbox.ready {
            self.step(Input::Ready, now);
        }
        if inbox.disconnect {
            self.step(Input::Disconnect, now);
        }
        if let Some(cause) = inbox.end {
            self.step(Input::End(cause), now);
            if inbox.hurry {
                self.step(Input::End(cause), now);
            }
        } else if inbox.hurry {
            self.step(Input::End(exit::Cause::Stopped), now);
        }
    }

    fn step(&mut self, input: Input, now: Instant) {
        let (next, Effects { enter, signal }) = self.phase.step(input, now, &self.rules);
        self.phase = next;
        if let Some(signal) = signal {
            tracing::debug!(signal = signal.word(), input = input.word(), "spawn signalled");
            self.body.signal(signal);
        }
        if let Some(state) = enter {
            self.enter(state, now);
        }
    }

    /// Publishes another state.
    fn enter(&mut self, state: SpawnState, now: Instant) {
        self.write_down(state, now);
        let serial = self.node.table().enter(self.id(), state, now);
        match state {
            SpawnState::Ready if !self.over && self.admitted.answer.borrow().is_none() => {
                (self.order, self.permit) = (None, None);
                let part = self.part.take();
                let start_to_ready = now.saturating_duration_since(self.began);
                let exemplar = part.as_ref().and_then(|part| Exemplar::of(part));
                // A warm server was ready before.
                if self.admitted.facts.server.is_none() {
                    self.node.metrics.start_to_ready.observe(start_to_ready.as_secs_f64(), exemplar, None);
                }
                if let Some(part) = part {
                    part.end();
                }
                answer(&self.admitted.answer, SpawnOutcome::Ready { start_to_ready, serial });
                tracing::info!(
                    port = self.admitted.facts.port,
                    gpu = self.admitted.facts.gpu,
                    renderer = %self.admitted.facts.renderer,
                    start_to_ready_us = start_to_ready.as_micros(),
                    server.id = self.admitted.facts.server.map(display),
                    "spawn ready"
                );
            }
            SpawnState::Suspect => tracing::warn!("spawn silent for too long"),
            SpawnState::Ready | SpawnState::Disconnected | SpawnState::Stopping => {
                tracing::debug!(%state, "spawn changed state");
            }
            SpawnState::Launching | SpawnState::Exited | SpawnState::Lost => {}
        }
    }

    /// Writes down what the next agent must know, before the registry or a caller learns of it.
    fn write_down(&self, state: SpawnState, now: Instant) {
        let Body::Process(_) = self.body else { return };
        let at = || self.node.state.clock.moment(now);
        let mark = match (state, self.phase.progress()) {
            (SpawnState::Ready, _) if self.admitted.answer.borrow().is_none() => JournalEvent::Ready(at()),
            (SpawnState::Disconnected, _) => JournalEvent::Disconnected(at()),
            (SpawnState::Stopping, exit::Progress::Ending(cause)) => JournalEvent::Ending(cause),
            _ => return,
        };
        self.node.state.journal.happened(self.id(), mark);
    }

    /// Explains the end and gives everything back.
    async fn finish(&mut self, status: Status) {
        let now = Instant::now();
        self.permit = None;
        self.over = true;
        // What it reported before it ended. Requests come too late: it has ended by itself.
        let Inbox { ready, disconnect, .. } = self.node.table().collect(self.id());
        self.take_in(Inbox { ready, disconnect, ..Inbox::default() }, now);
        let progress = self.phase.progress();
        let unanswered = self.admitted.answer.borrow().is_none();
        let log = if unanswered || exit::depends_on_log(progress, status) {
            self.node.last_words(self.id()).await
        } else {
            Vec::new()
        };
        let exit = exit::explain(progress, status, &log);
        let exit = match self.body.group().and_then(Group::out_of_memory) {
            Some(limit) => exit::out_of_memory(exit, &limit),
            None => exit,
        };
        self.node.metrics.ended(exit.reason);
        if let Some(part) = self.part.take() {
            part.note("hatchery.exit.reason", exit.reason);
            if let Some(code) = exit.code {
                part.count("hatchery.exit.code", code);
            }
            part.end_failed(exit.reason.as_str(), exit.text.as_deref().unwrap_or_default());
        }
        tracing::info!(reason = %exit.reason, code = exit.code, signal = exit.signal, text = exit.text, "spawn ended");
        if let Body::Process(_) = self.body {
            if self.node.table().backlog_len() < MAX_UNREPORTED {
                let at = self.node.state.clock.moment(now);
                self.node.state.journal.happened(self.id(), JournalEvent::Ended(at, exit.clone()));
            } else {
                self.node.state.journal.gone(self.id());
            }
        }
        let serial = self.node.table().exited(self.id(), exit.clone(), now);
        if unanswered {
            answer(&self.admitted.answer, SpawnOutcome::Ended { exit, log, serial });
        }
        if matches!(self.body, Body::Process(_)) {
            self.node.retire_log(self.id());
        }
    }
}

impl Drop for Driver {
    /// A driver that panics must not leave its process behind, nor its slot.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let request = self.origin().request_id.as_ref().map(ToString::to_string);
        tracing::error!(spawn.id = %self.id(), requestId = request, "the driver of a spawn has failed, the spawn is ended");
        self.body.signal(Signal::Kill);
        let exit = Exit {
            reason: ExitReason::Failed,
            code: None,
            signal: None,
            text: Some("its agent failed".to_owned()),
        };
        let serial = self.node.table().exited(self.id(), exit.clone(), Instant::now());
        if self.admitted.answer.borrow().is_none() {
            answer(&self.admitted.answer, SpawnOutcome::Ended { exit, log: Vec::new(), serial });
        }
    }
}

fn answer(callers: &watch::Sender<Option<SpawnOutcome>>, answer: SpawnOutcome) {
    callers.send_replace(Some(answer));
}
