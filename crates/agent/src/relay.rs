//! The relay: the one task that talks to the registry. It sends every change in order, and a heartbeat once a second: a keepalive while
//! both agree on what there is ([`crate::agreement`]), the whole list otherwise.
//!
//! ```text
//!              accepted                       every heartbeat interval
//!    ┌───────────────────────┐             ┌────────────────────────────┐
//!    ▼                       │             ▼                            │
//!  idle ── change, timer ─▶ send ── taken by another agent ─▶ contend ──┘── 15 s ─▶ closed
//!              ▲             │ failed: back off, then again        (never had the node: `taken`, else `superseded`)
//!              └─────────────┤ unknown, behind, or different: again at once, with everything
//!                            └ superseded ─▶ closed
//! ```
//!
//! Invariants: a change leaves the backlog only when the registry has accepted it. `reported` is what the registry knows once it has taken in
//! everything sent so far; heartbeats are made of it, so they never run ahead of the changes. A repeated report changes nothing. A
//! keepalive is sent only while nothing that was sent is unanswered.
//!
//! While the registry is away, nothing else waits for it: changes gather in the backlog and are sent afterwards.

mod keepalive;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::{Eligibility, SpawnId, SpawnState};
use registry::{
    AgentReport, Agreement, Change, Difference, Digest, DrainReport, Heartbeat, Orders, Registry,
    RegistryError,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agreement::{self, Rotation};
use crate::desired_state::DesiredState;
use crate::load::Processors;
use crate::node::Node;
use crate::spawn::SpawnStatus;
use crate::spawn::exit::Cause;
use crate::table::{AdmissionMode, Again};

/// Changes in one report, so that no report keeps the registry busy for long.
const BATCH: usize = 2_000;
/// How long a change waits for others to go with it, unless a caller waits for the registry to acknowledge it.
const LINGER: Duration = Duration::from_millis(3);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How long an agent tries to get a node that another one has: longer than it takes for a dead one to be `down`.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Relay {
    node: Arc<Node>,
    registry: Registry,
    /// The spawns as the registry knows them once it has taken in all reports so far. Heartbeats are made of this, and
    /// never run ahead of the changes.
    reported: HashMap<SpawnId, SpawnStatus>,
    /// Changes that were dropped when `reported` was last right.
    dropped: u64,
    /// Until the first report was accepted.
    takeover: bool,
    next_heartbeat: Instant,
    /// The last change that the registry has accepted.
    accepted: u64,
    /// The last change that was sent.
    sent: u64,
    /// What the registry has agreed to.
    agreed: Option<Digest>,
    rotation: Rotation,
    /// What the next list is for, where the registry asked for it.
    differs: Option<Difference>,
    /// The last heartbeat before which pings are not sent again; `None` while the registry wants none.
    pinged: Option<Instant>,
    /// The registry lacked accepted changes in its last answer.
    behind: bool,
    /// Since when another agent has had the node.
    taken_since: Option<Instant>,
    /// Reservations that must not start here any more, as the registry has them.
    void: Vec<SpawnId>,
    processors: Processors,
    pause: Duration,
    batch: usize,
}

/// A report to be sent.
#[derive(Debug)]
struct OutgoingReport {
    report: AgentReport,
    /// The last change in it.
    serial: u64,
}

/// The outcome of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReportOutcome {
    Accepted,
    /// Again, after a pause.
    Failed,
    /// Again at once, with everything.
    Everything,
    /// Another agent has the node. Again, with everything, at the time of the next heartbeat.
    Taken,
    /// This agent does not go on.
    Over,
}

impl Relay {
    pub(crate) fn new(node: Arc<Node>, registry: Registry) -> Self {
        // Adopted spawns: no change reports them.
        let processors = Processors::of(&node.config.launcher);
        let reported = node.table().snapshots().map(|spawn| (spawn.facts.id, spawn.clone())).collect();
        Self {
            node,
            registry,
            reported,
            dropped: 0,
            takeover: true,
            next_heartbeat: Instant::now(),
            accepted: 0,
            sent: 0,
            agreed: None,
            rotation: Rotation::default(),
            differs: None,
            pinged: None,
            behind: false,
            taken_since: None,
            void: Vec::new(),
            processors,
            pause: FIRST_PAUSE,
            batch: BATCH,
        }
    }

    /// Runs until another agent has taken over, or until `closing` is cancelled and everything was reported.
    pub(crate) async fn run(mut self, closing: CancellationToken) {
        let (changed, awaited) = self.node.table().relay_wakeups();
        loop {
            match self.send().await {
                ReportOutcome::Accepted => self.pause = FIRST_PAUSE,
                ReportOutcome::Everything => {
                    self.next_heartbeat = Instant::now();
                    continue;
                }
                ReportOutcome::Failed => {
                    tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    self.pause = (self.pause * 2).min(MAX_PAUSE);
                    continue;
                }
                ReportOutcome::Taken => {
                    tokio::select! {
                        () = closing.cancelled() => return,
                        () = tokio::time::sleep(self.node.config.heartbeat) => {}
                    }
                    continue;
                }
                ReportOutcome::Over => return,
            }
            if self.node.table().backlog_len() == 0 {
                if closing.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = changed.notified() => {}
                    () = tokio::time::sleep_until(self.next_heartbeat) => continue,
                    () = closing.cancelled() => continue,
                }
            }
            // Changes come in twos and threes; one report costs hardly more than one change.
            tokio::select! {
                biased;
                () = awaited.notified() => {}
                () = closing.cancelled() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
        }
    }

    async fn send(&mut self) -> ReportOutcome {
        let started = Instant::now();
        if let Some(keepalive) = self.keepalive(started) {
            let answer = self.registry.keepalive(&keepalive).await;
            return self.after_keepalive(answer, started);
        }
        let outgoing = self.compose(started);
        let with_heartbeat = outgoing.report.heartbeat.is_some();
        let answer = self.registry.report(&outgoing.report).await;
        let is_refused = |orders: &Orders| {
            orders.superseded || orders.taken.is_some() || orders.behind.is_some() || orders.unknown
        };
        if answer.as_ref().is_ok_and(is_refused) {
            self.agreed = None;
        }
        match answer {
            Ok(orders) if orders.superseded => self.superseded(),
            Ok(Orders { taken: Some(other), .. }) => self.taken(&other, started),
            Ok(Orders { behind: Some(applied), .. }) => self.behind(applied, started),
            // Even a report with everything in it did: no use in being quick.
            Ok(orders) if orders.unknown && with_heartbeat => ReportOutcome::Failed,
            Ok(orders) if orders.unknown => ReportOutcome::Everything,
            Ok(orders) => {
                self.node.metrics.report_time.observe(started.elapsed().as_secs_f64());
                let ended = self.node.table().accepted(outgoing.serial, started);
                for id in ended {
                    self.node.state.journal.gone(id);
                }
                self.accepted = self.accepted.max(outgoing.serial);
                let agreement = outgoing.report.agreement;
                self.agreed = agreement.filter(|a| with_heartbeat || a.before.is_some()).map(|a| a.after);
                self.behind = false;
                self.taken_since = None;
                if self.node.table().is_mine() {
                    tracing::info!("the other agent is gone, the node is this agent's");
                }
                self.takeover = false;
                if with_heartbeat {
                    self.differs = None;
                    self.next_heartbeat = started + self.node.config.heartbeat;
                }
                self.is_up();
                self.apply(orders);
                if !self.node.orders_heard.swap(true, Ordering::AcqRel) {
                    // Warm servers wait for it.
                    self.node.table().warm_changed().notify_one();
                }
                ReportOutcome::Accepted
            }
            Err(error) => self.failed(&error),
        }
    }

    fn is_up(&self) {
        if !self.node.registry_up.swap(true, Ordering::Relaxed) {
            tracing::info!("the registry accepts reports");
        }
    }

    fn failed(&self, error: &RegistryError) -> ReportOutcome {
        self.node.metrics.report_failures.inc();
        if self.node.registry_up.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "the registry does not accept reports, spawns go on without it");
        }
        ReportOutcome::Failed
    }

    /// Takes everything that is ready into one report. Nothing leaves the backlog before it was accepted.
    fn compose(&mut self, now: Instant) -> OutgoingReport {
        let table = self.node.table();
        let mut serial = 0;
        let description = self.description(table.slots());
        // What was sent and not answered is in the list already.
        let is_answered = self.sent == self.accepted;
        let mut before =
            self.agreed.filter(|was| !is_answered || *was == agreement::digest(&description, &self.reported));
        let mut changes: Vec<Change> = Vec::new();
        for pending in table.backlog(self.batch) {
            let change = pending.change(now);
            serial = change.serial;
            changes.push(change);
            if pending.spawn.state == SpawnState::Exited {
                self.reported.remove(&pending.spawn.facts.id);
            } else {
                self.reported.insert(pending.spawn.facts.id, pending.spawn.clone());
            }
        }
        // Changes were dropped. Once all others are in this report, the table is what the registry must come to.
        if self.dropped != table.dropped_changes() && changes.len() == table.backlog_len() {
            self.dropped = table.dropped_changes();
            before = None;
            self.reported = table.snapshots().map(|spawn| (spawn.facts.id, spawn.clone())).collect();
        }
        // With changes on their way that lead from what was agreed on to what there is, the next heartbeat can do without a list.
        let needs_list = before.is_none() || changes.is_empty() || !self.void.is_empty();
        let heartbeat = (self.takeover || (self.next_heartbeat <= now && needs_list)).then(|| {
            for (id, spawn) in &mut self.reported {
                spawn.heard = table.last_heard(*id).or(spawn.heard);
            }
            Heartbeat {
                description: description.clone(),
                load: self.processors.load(),
                supply: table.supply(self.node.starts.depth(), now),
                gpus: table.gpu_slots(),
                heard: agreement::heard(&self.reported, self.node.config.ping_interval, now),
                spawns: self.reported.values().map(|spawn| spawn.report(now)).collect(),
                forgotten: self
                    .void
                    .iter()
                    .filter(|id| !self.reported.contains_key(id) && !table.knows(**id))
                    .copied()
                    .collect(),
                desired: desired(table.desired(), now),
            }
        });
        drop(table);
        if heartbeat.is_some() {
            self.count_list();
        }
        let agreement = Agreement { before, after: agreement::digest(&description, &self.reported) };
        self.sent = self.sent.max(serial);
        OutgoingReport {
            report: AgentReport {
                node: self.node.config.node.clone(),
                epoch: self.node.epoch,
                takeover: self.takeover,
                identity: self.node.state.identity,
                accepted: self.accepted,
                agreement: Some(agreement),
                changes,
                heartbeat,
            },
            serial,
        }
    }

    fn apply(&mut self, orders: Orders) {
        let now = Instant::now();
        let Orders { generation, eligibility, drain, abandoned, expired, pings, failing, .. } = orders;
        self.pinged = pings.then(|| self.pinged.unwrap_or(now));
        self.node.table().set_failing(failing);
        if self.node.table().learn_desired(generation, eligibility, drain, now) {
            tracing::info!(%eligibility, generation, "eligibility changed");
            if eligibility != Eligibility::Eligible {
                self.node.starts.turn_away();
            }
            self.node.desired_unsaved.store(true, Ordering::Release);
            self.node.store_desired_soon();
        }
        let mut table = self.node.table();
        for id in &abandoned {
            table.end(*id, Cause::Cancelled, Again::ChangesNothing, now);
        }
        for id in &expired {
            table.expire(*id, now);
        }
        self.void = abandoned;
        self.void.extend(expired);
    }

    /// The registry went back to an older state, in which only changes up to `applied` are known.
    fn behind(&mut self, applied: u64, now: Instant) -> ReportOutcome {
        tracing::warn!(
            applied,
            accepted = self.accepted,
            "the registry has lost what it had accepted, it is reported again"
        );
        (self.accepted, self.sent, self.agreed) = (applied, applied, None);
        self.node.table().report_again(applied, now);
        // At once, but not in a loop, should it not be content with that.
        if std::mem::replace(&mut self.behind, true) {
            ReportOutcome::Failed
        } else {
            ReportOutcome::Everything
        }
    }

    /// Another agent that is alive has the node. It may be gone in a moment; what runs here is left alone meanwhile.
    fn taken(&mut self, other: &str, now: Instant) -> ReportOutcome {
        if self.node.table().taken_by(other) {
            tracing::warn!(
                other,
                advertise = self.node.description.advertise,
                "another agent has this node, no spawns are admitted; --node must be unique in the farm"
            );
        }
        let since = *self.taken_since.get_or_insert(now);
        if now.saturating_duration_since(since) < TAKEN_TIMEOUT {
            return ReportOutcome::Taken;
        }
        if !self.takeover {
            return self.superseded();
        }
        self.node.closed.cancel();
        ReportOutcome::Over
    }

    fn superseded(&self) -> ReportOutcome {
        tracing::error!("another agent has taken this node over, no more spawns are admitted");
        self.node.table().set_admission_mode(AdmissionMode::Superseded);
        self.node.starts.turn_away();
        self.node.closed.cancel();
        ReportOutcome::Over
    }
}

/// The desired state of the node, for a registry that has lost it.
fn desired(desired: &DesiredState, now: Instant) -> registry::DesiredStateReport {
    registry::DesiredStateReport {
        generation: desired.generation,
        eligibility: desired.eligibility,
        drain: desired.drain.as_ref().map(|drain| DrainReport {
            left: drain.deadline.saturating_duration_since(now),
            age: now.saturating_duration_since(drain.started),
            reason: drain.reason.clone(),
            by: drain.by.clone(),
        }),
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
