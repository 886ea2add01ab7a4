//! The one task that talks to the registry: it tells every change in order, and once a second everything.
//!
//! While the registry is away nothing else waits for it: changes pile up in the backlog and are told afterwards.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::{NodeDescription, SpawnId, SpawnState};
use registry::{AgentReport, Change, DesiredDrain, Heartbeat, Orders, Registry};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::load::Processors;
use crate::node::Node;
use crate::spawn::Snapshot;
use crate::spawn::exit::Cause;
use crate::table::{self, Again, Door};

/// Most changes in one report, so that no report keeps the registry busy for long.
const BATCH: usize = 2_000;
/// How long a change waits for others to go with it, unless somebody waits for the registry to know of it.
const LINGER: Duration = Duration::from_millis(3);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an agent tries to get a node that another one has: longer than it takes for a dead one to be `down`.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub(crate) struct Relay {
    node: Arc<Node>,
    registry: Registry,
    /// The spawns as the registry knows them once it has taken in all reports so far. Heartbeats are made of this, and
    /// never run ahead of the changes.
    told: HashMap<SpawnId, Snapshot>,
    /// Changes that were dropped when `told` was last right.
    dropped: u64,
    /// Until the first report was accepted.
    takeover: bool,
    next_heartbeat: Instant,
    /// The last change that the registry has accepted.
    accepted: u64,
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

/// A report on its way.
#[derive(Debug)]
struct Letter {
    report: AgentReport,
    /// The last change in it.
    serial: u64,
}

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
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
        // Those that were taken over: no change tells of them.
        let told = node.table().snapshots().map(|spawn| (spawn.facts.id, spawn.clone())).collect();
        Self {
            node,
            registry,
            told,
            dropped: 0,
            takeover: true,
            next_heartbeat: Instant::now(),
            accepted: 0,
            behind: false,
            taken_since: None,
            void: Vec::new(),
            processors: Processors::default(),
            pause: FIRST_PAUSE,
            batch: BATCH,
        }
    }

    /// Runs until another agent has taken over, or until it is `closing` and everything was told.
    pub(crate) async fn run(mut self, closing: CancellationToken) {
        let (bell, hurry) = self.node.table().relay_bells();
        loop {
            match self.tell().await {
                Outcome::Accepted => self.pause = FIRST_PAUSE,
                Outcome::Everything => {
                    self.next_heartbeat = Instant::now();
                    continue;
                }
                Outcome::Failed => {
                    tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                Outcome::Taken => {
                    tokio::select! {
                        () = closing.cancelled() => return,
                        () = tokio::time::sleep(self.node.config.heartbeat) => {}
                    }
                    continue;
                }
                Outcome::Over => return,
            }
            if self.node.table().backlog_len() == 0 {
                if closing.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = bell.notified() => {}
                    () = tokio::time::sleep_until(self.next_heartbeat) => continue,
                    () = closing.cancelled() => continue,
                }
            }
            // Changes come in twos and threes; one report costs hardly more than one change.
            tokio::select! {
                biased;
                () = hurry.notified() => {}
                () = closing.cancelled() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
        }
    }

    async fn tell(&mut self) -> Outcome {
        let started = Instant::now();
        let letter = self.write(started);
        let with_heartbeat = letter.report.heartbeat.is_some();
        match self.registry.report(&letter.report).await {
            Ok(orders) if orders.superseded => self.superseded(),
            Ok(Orders { taken: Some(other), .. }) => self.taken(&other, started),
            Ok(Orders { behind: Some(applied), .. }) => self.behind(applied, started),
            // Even a report with everything in it did: no use in being quick.
            Ok(orders) if orders.unknown && with_heartbeat => Outcome::Failed,
            Ok(orders) if orders.unknown => Outcome::Everything,
            Ok(orders) => {
                self.node.metrics.report_time.observe(started.elapsed().as_secs_f64());
                let ended = self.node.table().accepted(letter.serial, started);
                for id in ended {
                    self.node.state.journal.gone(id);
                }
                self.accepted = self.accepted.max(letter.serial);
                self.behind = false;
                self.taken_since = None;
                if self.node.table().is_mine() {
                    tracing::info!("the other agent is gone, the node is this agent's");
                }
                self.takeover = false;
                if with_heartbeat {
                    self.next_heartbeat = started + self.node.config.heartbeat;
                }
                if !self.node.registry_up.swap(true, Ordering::Relaxed) {
                    tracing::info!("the registry accepts reports");
                }
                self.obey(orders);
                Outcome::Accepted
            }
            Err(error) => {
                self.node.metrics.report_failures.inc();
                if self.node.registry_up.swap(false, Ordering::Relaxed) {
                    tracing::warn!(%error, "the registry does not accept reports, spawns go on without it");
                }
                Outcome::Failed
            }
        }
    }

    /// Takes everything that is ready into one report. Nothing leaves the backlog before it was accepted.
    fn write(&mut self, now: Instant) -> Letter {
        let table = self.node.table();
        let mut serial = 0;
        let mut changes: Vec<Change> = Vec::new();
        for pending in table.backlog(self.batch) {
            let change = pending.change(now);
            serial = change.serial;
            changes.push(change);
            if pending.spawn.state == SpawnState::Exited {
                self.told.remove(&pending.spawn.facts.id);
            } else {
                self.told.insert(pending.spawn.facts.id, pending.spawn.clone());
            }
        }
        // Changes were lost, but with all others told the table is what the registry must come to.
        if self.dropped != table.dropped_changes() && changes.len() == table.backlog_len() {
            self.dropped = table.dropped_changes();
            self.told = table.snapshots().map(|spawn| (spawn.facts.id, spawn.clone())).collect();
        }
        let heartbeat = (self.takeover || self.next_heartbeat <= now).then(|| {
            for (id, spawn) in &mut self.told {
                spawn.heard = table.last_heard(*id).or(spawn.heard);
            }
            Heartbeat {
                description: NodeDescription { slots: table.slots(), ..self.node.description.clone() },
                load: self.processors.load(),
                gpus: table.gpus().slots(),
                spawns: self.told.values().map(|spawn| spawn.report(now)).collect(),
                forgotten: self
                    .void
                    .iter()
                    .filter(|id| !self.told.contains_key(id) && !table.knows(**id))
                    .copied()
                    .collect(),
                desired: wish(table.wish(), now),
            }
        });
        Letter {
            report: AgentReport {
                node: self.node.config.node.clone(),
                epoch: self.node.epoch,
                takeover: self.takeover,
                identity: self.node.state.identity,
                accepted: self.accepted,
                changes,
                heartbeat,
            },
            serial,
        }
    }

    fn obey(&mut self, orders: Orders) {
        let now = Instant::now();
        let Orders { generation, eligibility, drain, abandoned, expired, .. } = orders;
        if self.node.table().learn_wish(generation, eligibility, drain, now) {
            tracing::info!(%eligibility, generation, "eligibility changed");
            self.node.wish_unkept.store(true, Ordering::Release);
            self.node.keep_wish_soon();
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
    fn behind(&mut self, applied: u64, now: Instant) -> Outcome {
        tracing::warn!(
            applied,
            accepted = self.accepted,
            "the registry has lost what it had accepted, it is reported again"
        );
        self.accepted = applied;
        self.node.table().report_again(applied, now);
        // At once, but not in a loop, should it not be content with that.
        if std::mem::replace(&mut self.behind, true) { Outcome::Failed } else { Outcome::Everything }
    }

    /// Another agent that is alive has the node. It may be gone in a moment; what runs here is left alone meanwhile.
    fn taken(&mut self, other: &str, now: Instant) -> Outcome {
        if self.node.table().taken_by(other) {
            tracing::warn!(
                other,
                advertise = self.node.description.advertise,
                "another agent has this node, no spawns are admitted; --node must be unique in the farm"
            );
        }
        let since = *self.taken_since.get_or_insert(now);
        if now.saturating_duration_since(since) < TAKEN_TIMEOUT {
            return Outcome::Taken;
        }
        if !self.takeover {
            return self.superseded();
        }
        self.node.closed.cancel();
        Outcome::Over
    }

    fn superseded(&self) -> Outcome {
        tracing::error!("another agent has taken this node over, no more spawns are admitted");
        self.node.table().shut(Door::Superseded);
        self.node.closed.cancel();
        Outcome::Over
    }
}

/// The operator's wish, for a registry that has lost it.
fn wish(wish: &table::wish::Wish, now: Instant) -> registry::DesiredState {
    registry::DesiredState {
        generation: wish.generation,
        eligibility: wish.eligibility,
        drain: wish.drain.as_ref().map(|drain| DesiredDrain {
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
