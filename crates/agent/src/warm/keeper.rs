//! The keeper: the one task that owns one warm server, from its turn to start to its end, or to its claim by a spawn.
//!
//! It supervises the server as a driver does a spawn, by the same rules ([`crate::spawn::lifecycle`]), but reports nothing to the registry. When
//! a spawn claims the server, the keeper hands the process over and is done; an end that it has seen before comes first, and the spawn then
//! starts a server of its own.
//!
//! What the server holds is given back when its process has ended, also when a disk hangs and the process comes about late.

use std::sync::Arc;
use std::time::Duration;

use model::SpawnState;
use tokio::time::Instant;

use crate::node::Node;
use crate::spawn::body::Body;
use crate::spawn::exit::{self, Status};
use crate::spawn::lifecycle::{Effects, Input, Phase, Rules, Signal};
use crate::spawn::{Facts, output};
use crate::start_gate::{StartPermit, Turn};
use crate::state::record::JournalEvent;
use crate::supervision::start::{START_TIMEOUT, start_warm};
use crate::table::pool::KeptServer;
use crate::table::pool::{WarmEnd, WarmStage};

/// Between TERM and KILL: nothing has connected to it, and a spawn may wait for what it holds.
const GRACE: Duration = Duration::from_millis(500);
/// How long the first record may take, as that of a spawn.
const RECORD_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Keeper {
    node: Arc<Node>,
    kept: KeptServer,
    body: Body,
    phase: Phase,
    rules: Rules,
    /// Others wait for their turn to start while it is held.
    permit: Option<StartPermit>,
    since: Instant,
}

/// A process that was just started. Unless a keeper takes it, it is ended, and what it holds is given back then.
#[derive(Debug)]
struct Started {
    node: Arc<Node>,
    facts: Arc<Facts>,
    body: Option<Body>,
    is_kept: bool,
}

impl Started {
    /// From now on its keeper gives back what it holds.
    fn keep(mut self) -> Option<Body> {
        self.is_kept = self.body.is_some();
        self.body.take()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (node, facts) = (Arc::clone(&self.node), Arc::clone(&self.facts));
        match self.body.take() {
            Some(body) => drop(self.node.runtime.spawn(async move {
                if let Body::Process(process) = &body {
                    process.signal(Signal::Kill);
                }
                let status = body.ended().await;
                clear(&node, &facts, &body, status).await;
            })),
            None => give_back(&node, &facts),
        }
    }
}

/// Waits for its turn, starts the server, and keeps it.
pub(crate) async fn start(node: Arc<Node>, kept: KeptServer) {
    let (shared, facts) = (Arc::clone(&node), Arc::clone(&kept.facts));
    let mut started = Started { node: shared, facts, body: None, is_kept: false };
    let id = kept.facts.id;
    let permit = {
        let mut turn = std::pin::pin!(node.starts.enter(Turn::Warm));
        loop {
            tokio::select! {
                biased;
                permit = &mut turn => break permit,
                () = kept.notify.notified() => {
                    if node.table().is_warm_unwanted(id) {
                        break None;
                    }
                }
                () = node.leaving.cancelled() => break None,
            }
        }
    };
    let Some(permit) = permit.filter(|_| node.table().begin_warm_start(id)) else {
        // What is turned away has not failed.
        node.table().end_warm(id, WarmEnd::Closed);
        return;
    };
    let until = Instant::now() + node.config.ready_timeout;
    let job = {
        let (node, facts) = (Arc::clone(&node), Arc::clone(&kept.facts));
        move || match start_warm(&node, &facts, until) {
            Ok((body, line)) => {
                started.body = Some(body);
                Ok((started, line))
            }
            Err(refusal) => Err(refusal),
        }
    };
    let result = tokio::select! {
        result = node.disk.starts.call(START_TIMEOUT, job) => result,
        // The next agent does not find a process that has not started.
        () = node.leaving.cancelled() => return,
    };
    let (started, line) = match result {
        Ok(Ok(started)) => started,
        Ok(Err(refusal)) => {
            tracing::warn!(
                reason = refusal.kind.as_str(),
                detail = refusal.detail,
                "a warm server did not start"
            );
            return;
        }
        Err(error) => {
            // It has no keeper: a process that comes about after all is ended at once.
            node.table().give_up_warm_start(id);
            tracing::warn!(%error, "a warm server did not start");
            return;
        }
    };
    if let Some(line) = line {
        node.state.journal.written(line, RECORD_TIMEOUT).await;
    }
    let Some(body) = started.keep() else { return };
    let pid = body.pid();
    node.metrics.warm_started.inc();
    node.table().warm_started(id, pid);
    kept.notify.notify_one();
    tracing::debug!(port = kept.facts.port, gpu = kept.facts.gpu, pid, "warm server started");
    Keeper::new(node, kept, body, Phase::Launching { until }, Some(permit)).run().await;
}

impl Keeper {
    /// A keeper for a process that has come as far as this.
    pub(crate) fn new(
        node: Arc<Node>,
        kept: KeptServer,
        body: Body,
        phase: Phase,
        permit: Option<StartPermit>,
    ) -> Self {
        let rules = Rules { stop_grace: node.rules.stop_grace.min(GRACE), ..node.rules.clone() };
        Self { node, kept, body, phase, rules, permit, since: Instant::now() }
    }

    pub(crate) fn id(&self) -> model::SpawnId {
        self.kept.facts.id
    }

    /// Runs until the process has ended, a spawn has got it, or the agent leaves it to the next one.
    pub(crate) async fn run(mut self) {
        self.attend();
        loop {
            let heard = self.heard(Instant::now());
            let due = self.phase.deadline(heard, &self.rules);
            let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                status = self.body.ended() => return self.finish(status).await,
                claimed = &mut self.kept.claimed => {
                    // The table is gone with the agent otherwise.
                    if let Ok(successor) = claimed
                        && let Err(body) = successor.send(self.body)
                    {
                        end_unowned(self.node, self.kept.facts, body).await;
                    }
                    return;
                }
                () = self.node.leaving.cancelled() => return,
                () = self.kept.notify.notified() => self.attend(),
                () = tokio::time::sleep_until(wake) => self.attend(),
            }
        }
    }

    fn heard(&self, or: Instant) -> Instant {
        self.node.table().warm_heard(self.id()).unwrap_or(or).max(self.since)
    }

    fn attend(&mut self) {
        let now = Instant::now();
        let (collected, since, stall) = {
            let mut table = self.node.table();
            (table.collect_warm(self.id()), table.awake(now), table.stall())
        };
        if since > self.since {
            self.since = since;
            self.phase = self.phase.extend(since + stall);
        }
        let Some((inbox, heard)) = collected else { return };
        if inbox.ready {
            self.step(Input::Ready, now);
        }
        if inbox.disconnect {
            self.step(Input::Disconnect, now);
        }
        if let Some(cause) = inbox.end
            && !matches!(self.phase, Phase::Terminating { .. } | Phase::Killed { .. })
        {
            self.step(Input::End(cause), now);
        }
        self.step(Input::Tick { heard: heard.max(self.since) }, now);
    }

    fn step(&mut self, input: Input, now: Instant) {
        let (next, Effects { enter, signal }) = self.phase.step(input, now, &self.rules);
        self.phase = next;
        if let Some(signal) = signal {
            self.body.signal(signal);
        }
        let stage = match enter {
            Some(SpawnState::Ready) => {
                if self.permit.take().is_some() {
                    let at = self.node.state.clock.moment(now);
                    self.node.state.journal.happened(self.id(), JournalEvent::Ready(at));
                    tracing::info!(
                        port = self.kept.facts.port,
                        gpu = self.kept.facts.gpu,
                        "warm server ready"
                    );
                }
                WarmStage::Ready
            }
            Some(SpawnState::Suspect) => WarmStage::Suspect,
            Some(_) => WarmStage::Ending,
            None => return,
        };
        self.node.table().enter_warm(self.id(), stage);
    }

    async fn finish(self, status: Status) {
        let Self { node, kept: KeptServer { facts, claimed, .. }, body, permit, .. } = self;
        // A spawn that has just claimed it sees that there is no process, and starts one of its own.
        drop((permit, claimed));
        clear(&node, &facts, &body, status).await;
    }
}

/// After the end of its process: what it has left is removed, and what it held is free.
async fn clear(node: &Arc<Node>, facts: &Arc<Facts>, body: &Body, status: Status) {
    match body.group().cloned() {
        Some(group) => group.remove().await,
        None => node.leftovers.of(facts.id),
    }
    let log = output::warm_path(node.state.logs(), facts.id);
    let words = {
        let log = log.clone();
        node.disk.logs.call(RECORD_TIMEOUT, move || output::last_words(&log)).await.unwrap_or_default()
    };
    node.state.journal.gone(facts.id);
    // One that a spawn has claimed is not of the pool any more.
    let gone = node.table().warm_gone(facts.id, Instant::now());
    if let Some(why) = gone {
        node.metrics.warm_ended(why);
    }
    if gone == Some(None) {
        let exit = exit::explain(exit::Progress::Ready, status, &words);
        let last = words.join(" | ");
        tracing::warn!(server.id = %facts.id, code = exit.code, signal = exit.signal, text = exit.text, last, "a warm server ended by itself");
    }
    node.disk.logs.post(move || drop(std::fs::remove_file(log))).ok();
}

/// No process has come of it.
fn give_back(node: &Arc<Node>, facts: &Arc<Facts>) {
    if let Some(why) = node.table().warm_gone(facts.id, Instant::now()) {
        node.metrics.warm_ended(why);
    }
    let log = output::warm_path(node.state.logs(), facts.id);
    node.disk.logs.post(move || drop(std::fs::remove_file(log))).ok();
}

/// The spawn that claimed it has left before it could take it.
async fn end_unowned(node: Arc<Node>, facts: Arc<Facts>, body: Body) {
    if let Body::Process(process) = &body {
        process.signal(Signal::Kill);
    }
    let status = body.ended().await;
    clear(&node, &facts, &body, status).await;
}
