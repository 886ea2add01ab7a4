//! The table: what the agent knows, behind one lock. Slots, ports, GPUs, users, spawns, and the changes that the registry has yet to accept.
//!
//! The lock is held for short sections without an await. A state change and its place in the backlog are one step, so a heartbeat and the
//! changes can never disagree.
//!
//! A spawn in the table:
//!
//! ```text
//!  admit ─▶ Queued ── begin_start ─▶ Starting ── launched ─▶ Launched ── exited ─▶ recent (for repeated requests) ─▶ tombstone (its id never starts again)
//!              │                         │ give_up_start          ▲
//!              │                         ▼                        └── adopt
//!              │                      GivenUp
//!              └── not_launched ─────────┴───▶ gone, as if it had never been here
//! ```
//!
//! A spawn holds its slot, port, user and GPU from `admit` to `exited` or `not_launched`, and in `GivenUp` too: its process may still come about.
//!
//! Admission as a whole has a mode ([`AdmissionMode`]):
//!
//! ```text
//!           another agent's heartbeats arrive        15 s
//!    Open ◀────────────────────────────────▶ Taken ──────────▶ the agent closes
//!     │ shutdown                                │ the registry says so
//!     ▼                                         ▼
//!  ShuttingDown · Emptying (drain)           Superseded
//! ```
//!
//! [`entrance`] is how spawns come into it, [`claim`] how they get warm servers, [`warm`] what is kept of those, [`adopted`] how spawns of
//! earlier agents come in, `reports` what servers say, `ends` how they leave,
//! `changes` what the registry has yet to accept, [`viewer`] who is connected to one, `unconfirmed_ports` who may be about to, `expiry` how long one
//! may live, [`crate::desired_state`] and `eligibility` what the operator wants of the node.

pub(crate) mod adopted;
mod changes;
pub(crate) mod claim;
mod eligibility;
mod ends;
pub(crate) mod entrance;
mod entry;
mod expiry;
mod holding;
pub(crate) mod pool;
mod reports;
mod unconfirmed_ports;
pub(crate) mod viewer;
pub(crate) mod warm;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use model::{GpuSlots, SpawnId, SpawnState, timing};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::entry::Stage;
pub(crate) use self::entry::{AdmissionMode, Again, Ending, Entry, Inbox, Liveliness, Usage};
use self::pool::Pool;
use self::unconfirmed_ports::UnconfirmedPorts;
use crate::backlog::Backlog;
use crate::config::{Config, Launcher};
use crate::desired_state::Operator;
use crate::endpoint::EndpointForm;
use crate::gpus::Gpus;
use crate::past::{Recent, Tombstones};
use crate::ports::Ports;
use crate::secret::Secret;
use crate::spawn::lifecycle::stall_after;
use crate::spawn::{Facts, SpawnStatus};
use crate::users::Users;

#[derive(Debug)]
pub(crate) struct Table {
    slots: usize,
    /// Servers that start at once.
    starts: u32,
    csr: bool,
    ssr: bool,
    endpoint: EndpointForm,
    ports: Ports,
    gpus: Gpus,
    users: Users,
    /// Ports that admission found taken since the last search for their owners.
    ports_found_taken: Vec<u16>,
    running: HashMap<SpawnId, Entry>,
    unconfirmed_ports: UnconfirmedPorts,
    warm: Pool,
    /// How long a spawn that has got a warm server may have no viewer; zero: for ever.
    initial_use: Duration,
    /// Admitted spawns in [`Stage::Starting`].
    starting: usize,
    recent: Recent<Entry>,
    tombstones: Tombstones,
    operator: Operator,
    mode: AdmissionMode,
    /// The address of the agent that has the node, while the door is [`AdmissionMode::Taken`].
    taken_by: Option<String>,
    backlog: Backlog,
    /// Wakes the relay.
    relay: Arc<Notify>,
    /// Wakes the relay out of its pause: a caller waits for a change to be accepted.
    hurry: Arc<Notify>,
    /// Notified when a start is settled, or a spawn has become ready or has ended.
    settled: Arc<Notify>,
    desired_changed: Arc<Notify>,
    born: Instant,
    /// When the agent last ran, as far as is known.
    last_awake: Instant,
    /// Since when a silence counts.
    silence_since: Instant,
    /// See [`Table::stall`].
    stall: Duration,
    /// When reports were last kept from arriving.
    deafened: Option<Instant>,
}

impl Table {
    pub(crate) fn new(config: &Config, endpoint: EndpointForm) -> Self {
        let now = Instant::now();
        Self {
            slots: usize::try_from(config.slots).unwrap_or(usize::MAX),
            starts: config.starts,
            csr: config.csr,
            ssr: config.ssr,
            endpoint,
            ports: match config.launcher {
                Launcher::Simulated(_) => Ports::new(&config.ports).untested(),
                _ => Ports::new(&config.ports),
            },
            gpus: Gpus::new(config.gpus, config.gpu_slots),
            users: Users::new(config.spawn_users.as_ref()),
            ports_found_taken: Vec::new(),
            running: HashMap::new(),
            unconfirmed_ports: UnconfirmedPorts::default(),
            warm: Pool::new(config.warm.clone(), config.warm_age, config.ping_interval),
            initial_use: config.initial_use,
            starting: 0,
            recent: Recent::default(),
            tombstones: Tombstones::default(),
            operator: Operator::default(),
            mode: AdmissionMode::Open,
            taken_by: None,
            backlog: Backlog::new(),
            relay: Arc::new(Notify::new()),
            hurry: Arc::new(Notify::new()),
            settled: Arc::new(Notify::new()),
            desired_changed: Arc::new(Notify::new()),
            born: now,
            last_awake: now,
            silence_since: now,
            deafened: None,
            stall: stall_after(config.ping_interval.max(timing::HEARTBEAT / 10)),
        }
    }

    /// The endpoint of a spawn, in this form or the agent's own.
    pub(crate) fn endpoint(
        &self,
        form: Option<&EndpointForm>,
        id: SpawnId,
        port: u16,
        token: Option<&Secret>,
    ) -> String {
        form.unwrap_or(&self.endpoint).of(id, port, token)
    }

    /// Enters another state, short of the end. Returns the number of the change.
    pub(crate) fn enter(&mut self, id: SpawnId, state: SpawnState, now: Instant) -> u64 {
        let Some(entry) = self.running.get_mut(&id) else { return 0 };
        if state == SpawnState::Ready && entry.spawn.ready.is_none() {
            entry.spawn.ready = Some(now);
            self.settled.notify_waiters();
        }
        if state == SpawnState::Disconnected {
            entry.spawn.viewing.end(now);
        }
        entry.spawn.state = state;
        let spawn = entry.spawn.clone();
        self.publish(spawn, now)
    }

    pub(super) fn give_back(&mut self, facts: &Facts) {
        self.ports.give_back(facts.port);
        self.users.give_back(facts.user);
        if let Some(gpu) = facts.gpu {
            self.gpus.give_back(gpu);
        }
        self.settled.notify_waiters();
        self.warm.changed.notify_one();
    }

    /// No other spawn gets this user, see [`Users::retire`].
    pub(crate) fn retire_user(&mut self, uid: u32) {
        self.users.retire(uid);
    }

    /// The ports that admission found taken since the last call.
    pub(crate) fn ports_found_taken(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.ports_found_taken)
    }

    /// The spawn whose process leads this group, and its port.
    pub(crate) fn spawn_of_group(&self, group: u32) -> Option<(SpawnId, u16)> {
        let entry = self.running.values().find(|entry| entry.pid == group && group != 0)?;
        Some((entry.spawn.facts.id, entry.spawn.facts.port))
    }

    /// The spawn that has this user, and its port; for users that are one spawn's at a time.
    pub(crate) fn spawn_of_user(&self, uid: u32) -> Option<(SpawnId, u16)> {
        let mut all = self.running.values().map(|entry| &entry.spawn.facts);
        let facts = all.find(|facts| facts.user.is_some_and(|user| user.uid == uid))?;
        Some((facts.id, facts.port))
    }

    /// What does not change about it.
    pub(crate) fn facts(&mut self, id: SpawnId, now: Instant) -> Option<Arc<Facts>> {
        let entry = self.running.get(&id).or_else(|| self.recent.get(id, now))?;
        Some(Arc::clone(&entry.spawn.facts))
    }

    /// What its driver has not seen yet.
    pub(crate) fn collect(&mut self, id: SpawnId) -> Inbox {
        self.running.get_mut(&id).map(|entry| std::mem::take(&mut entry.inbox)).unwrap_or_default()
    }

    pub(crate) fn set_admission_mode(&mut self, mode: AdmissionMode) {
        self.warm.changed.notify_one();
        self.mode = mode;
    }

    /// Another agent has the node, at this address. Returns whether that is news.
    pub(crate) fn taken_by(&mut self, other: &str) -> bool {
        if matches!(self.mode, AdmissionMode::Open) {
            self.mode = AdmissionMode::Taken;
        }
        self.warm.changed.notify_one();
        let news = self.taken_by.as_deref() != Some(other);
        self.taken_by = Some(other.to_owned());
        news
    }

    /// The node is this agent's after all. Returns whether it was another's before.
    pub(crate) fn is_mine(&mut self) -> bool {
        if self.mode == AdmissionMode::Taken {
            self.mode = AdmissionMode::Open;
            self.warm.changed.notify_one();
        }
        self.taken_by.take().is_some()
    }

    /// The address of the agent that has the node instead of this one.
    pub(crate) fn other_agent(&self) -> Option<&str> {
        self.taken_by.as_deref()
    }

    /// A reservation has expired: it must not start any more. One that is here goes on, its caller may have been answered.
    pub(crate) fn expire(&mut self, id: SpawnId, now: Instant) {
        if !self.knows(id) {
            self.tombstones.add(id, now);
        }
    }

    /// The most spawns there may be: no more than there are, once the agent only waits for their ends.
    /// Slots of starts that hang are not offered.
    pub(crate) fn slots(&self) -> u32 {
        let hung = self.running.len() - self.running();
        let slots = if self.mode == AdmissionMode::Emptying {
            self.running()
        } else {
            self.slots.saturating_sub(hung)
        };
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    pub(crate) fn admission_mode(&self) -> AdmissionMode {
        self.mode
    }

    /// All spawns, those that ended a short while ago included.
    pub(crate) fn all(&mut self, now: Instant) -> impl Iterator<Item = &Entry> {
        self.running.values().filter(|entry| !entry.is_given_up()).chain(self.recent.all(now))
    }

    /// Spawns that have not ended, without those whose start was given up.
    pub(crate) fn running(&self) -> usize {
        self.running.values().filter(|e| !e.is_given_up()).count()
    }

    pub(crate) fn launching(&self) -> usize {
        self.running.values().filter(|e| e.spawn.state == SpawnState::Launching && !e.is_given_up()).count()
    }

    /// Processes that are being started, those of warm servers included.
    pub(crate) fn starting(&self) -> usize {
        self.starting + self.starting_warm().count()
    }

    pub(crate) fn knows(&self, id: SpawnId) -> bool {
        self.running.get(&id).is_some_and(|entry| !entry.is_given_up())
    }

    /// Those whose process was started, as they are now.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &SpawnStatus> {
        self.running.values().filter(|e| e.stage == Stage::Launched).map(|e| &e.spawn)
    }

    /// The use of each GPU by spawns: what warm servers have of it is no spawn's yet.
    pub(crate) fn gpu_slots(&self) -> Vec<GpuSlots> {
        let mut slots = self.gpus.slots();
        for facts in self
            .warm
            .kept
            .values()
            .filter(|entry| entry.lent.is_none_or(|lent| !lent.gpu))
            .map(|entry| &entry.facts)
        {
            if let Some(slot) = slots.iter_mut().find(|slot| Some(slot.index) == facts.gpu) {
                slot.used = slot.used.saturating_sub(1);
            }
        }
        slots
    }

    pub(crate) fn usage(&self) -> Usage {
        let mut by_state: Vec<(SpawnState, usize)> = [
            SpawnState::Launching,
            SpawnState::Ready,
            SpawnState::Suspect,
            SpawnState::Disconnected,
            SpawnState::Stopping,
        ]
        .map(|state| (state, 0))
        .into();
        for entry in self.running.values() {
            if let Some((_, count)) = by_state.iter_mut().find(|(state, _)| *state == entry.spawn.state) {
                *count += 1;
            }
        }
        Usage {
            by_state,
            waiting: self.running.values().map(|e| e.waiting).sum(),
            ports: self.ports.used(),
            gpu_slots: self.gpus.used(),
            backlog: self.backlog.len(),
            dropped: self.backlog.dropped(),
        }
    }

    /// Notified whenever a start is settled, or a spawn has become ready or has ended.
    pub(crate) fn settled(&self) -> Arc<Notify> {
        Arc::clone(&self.settled)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
