//! What the agent knows, behind one lock: slots, ports, GPUs, spawns, and the changes the registry has yet to be told.
//!
//! The lock is held for short sections without an await. A state change and its place in the backlog are one step, so
//! that what a heartbeat says and what the changes say can never disagree.
//!
//! [`entrance`] is how spawns come into it, [`adopted`] how those of earlier agents do, [`viewer`] who is connected to one,
//! [`wish`] what the operator wants of the node.

pub(crate) mod adopted;
pub(crate) mod entrance;
pub(crate) mod viewer;
pub(crate) mod wish;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Exit, SpawnId, SpawnState, timing};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::backlog::{Backlog, Pending};
use crate::config::Config;
use crate::endpoint::EndpointForm;
use crate::gpus::Gpus;
use crate::liveliness::secret::Secret;
use crate::memory::{Recent, Tombstones};
use crate::ports::Ports;
use crate::spawn::exit::Cause;
use crate::spawn::lifecycle::stall_after;
use crate::spawn::users::Users;
use crate::spawn::{Answer, Facts, Snapshot};

/// What other tasks have for the driver of a spawn. Everything in it coalesces, so it is never full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Inbox {
    pub(crate) ready: bool,
    pub(crate) disconnect: bool,
    pub(crate) end: Option<Cause>,
    /// Asked to end more than once: no more patience.
    pub(crate) hurry: bool,
}

impl Entry {
    fn is_given_up(&self) -> bool {
        self.stage == Stage::GivenUp
    }
}

impl Inbox {
    fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What a spawned server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveliness {
    Ready,
    Ping,
    Disconnect,
}

/// How far the start of a spawn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Admitted; not published.
    Starting,
    /// Its start took too long and its callers were refused. It holds its slot, port and GPU until the start is
    /// over, and is not published.
    GivenUp,
    /// Its process runs.
    Launched,
}

/// One spawn in the table.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spawn: Snapshot,
    /// 0 until the process was started.
    pub(crate) pid: u32,
    stage: Stage,
    inbox: Inbox,
    /// Wakes its driver.
    bell: Arc<Notify>,
    answer: watch::Receiver<Option<Answer>>,
    /// Callers that have not been answered yet.
    waiting: u32,
    /// Whether some caller was answered.
    answered: bool,
    /// Started by an earlier agent.
    adopted: bool,
    /// The viewer that a relay has for it.
    viewer: Option<Uuid>,
    /// Whether a relay has had a viewer connected to it, as far as this agent knows.
    served: bool,
}

/// What came of asking for an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Stopping,
    Ended,
    Unknown,
}

/// Whether asking again for an end that has begun means KILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Hurries,
    ChangesNothing,
}

/// Why nobody is let in, whatever is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Door {
    #[default]
    Open,
    /// The agent is going away.
    ShuttingDown,
    /// The agent goes away once its last spawn has.
    Emptying,
    /// Another agent that is alive has the node; it may turn out to be gone.
    Taken,
    /// Another agent has taken the node over.
    Superseded,
}

/// How many spawns are in which state, and what they use.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) by_state: Vec<(SpawnState, usize)>,
    /// Callers that wait for their answer.
    pub(crate) waiting: u32,
    pub(crate) ports: usize,
    pub(crate) gpu_slots: u32,
    pub(crate) backlog: usize,
    pub(crate) dropped: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    slots: usize,
    csr: bool,
    ssr: bool,
    endpoint: EndpointForm,
    ports: Ports,
    gpus: Gpus,
    users: Users,
    /// Ports that admission found taken and nobody has looked at yet.
    ports_found_taken: Vec<u16>,
    running: HashMap<SpawnId, Entry>,
    /// Let in, but not known yet whether their process starts.
    starting: usize,
    recent: Recent<Entry>,
    tombstones: Tombstones,
    operator: wish::Operator,
    door: Door,
    /// The address of the agent that has the node, while the door is [`Door::Taken`].
    taken_by: Option<String>,
    backlog: Backlog,
    /// Wakes the relay.
    relay: Arc<Notify>,
    /// Tells the relay that somebody waits.
    hurry: Arc<Notify>,
    settled: Arc<Notify>,
    born: Instant,
    /// When the agent last ran, as far as is known, and since when silence counts.
    last_awake: Instant,
    pardon: Instant,
    stall: Duration,
    /// When reports were last kept from arriving.
    deafened: Option<Instant>,
}

impl Table {
    pub(crate) fn new(config: &Config, endpoint: EndpointForm) -> Self {
        let now = Instant::now();
        Self {
            slots: usize::try_from(config.slots).unwrap_or(usize::MAX),
            csr: config.csr,
            ssr: config.ssr,
            endpoint,
            ports: Ports::new(&config.ports),
            gpus: Gpus::new(config.gpus, config.gpu_slots),
            users: Users::new(config.spawn_users.as_ref()),
            ports_found_taken: Vec::new(),
            running: HashMap::new(),
            starting: 0,
            recent: Recent::default(),
            tombstones: Tombstones::default(),
            operator: wish::Operator::default(),
            door: Door::Open,
            taken_by: None,
            backlog: Backlog::new(),
            relay: Arc::new(Notify::new()),
            hurry: Arc::new(Notify::new()),
            settled: Arc::new(Notify::new()),
            born: now,
            last_awake: now,
            pardon: now,
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

    /// It has come into another state, short of its end.
    pub(crate) fn enter(&mut self, id: SpawnId, state: SpawnState, now: Instant) -> u64 {
        let Some(entry) = self.running.get_mut(&id) else { return 0 };
        if state == SpawnState::Ready && entry.spawn.ready.is_none() {
            entry.spawn.ready = Some(now);
            self.settled.notify_waiters();
        }
        entry.spawn.state = state;
        let spawn = entry.spawn.clone();
        self.publish(spawn, now)
    }

    /// It has ended: everything it used is free again.
    ///
    /// Returns the number of the change that tells the registry.
    pub(crate) fn exited(&mut self, id: SpawnId, exit: Exit, now: Instant) -> u64 {
        let Some(mut entry) = self.running.remove(&id) else { return 0 };
        self.give_back(&entry.spawn.facts);
        entry.spawn.state = SpawnState::Exited;
        entry.spawn.ended = Some(now);
        entry.spawn.exit = Some(exit);
        let serial = self.publish(entry.spawn.clone(), now);
        self.tombstones.add(id, now);
        self.recent.add(id, entry, now);
        serial
    }

    fn give_back(&mut self, facts: &Facts) {
        self.ports.give_back(facts.port);
        self.users.give_back(facts.user);
        if let Some(gpu) = facts.gpu {
            self.gpus.give_back(gpu);
        }
        self.settled.notify_waiters();
    }

    fn publish(&mut self, spawn: Snapshot, now: Instant) -> u64 {
        let serial = self.backlog.push(spawn, now);
        self.relay.notify_one();
        serial
    }

    /// Takes in what a server says of itself; `false` when it is not one of ours.
    pub(crate) fn heard(&mut self, id: SpawnId, what: Liveliness, now: Instant) -> bool {
        let Some(entry) = self.running.get_mut(&id).filter(|entry| !entry.is_given_up()) else {
            return false;
        };
        entry.spawn.heard = Some(now);
        match what {
            Liveliness::Ready => entry.inbox.ready = true,
            Liveliness::Disconnect => entry.inbox.disconnect = true,
            // It may have said `ready` while no agent listened, or could not say it, and it says it only once.
            Liveliness::Ping
                if entry.spawn.state == SpawnState::Launching
                    && (entry.adopted || self.deafened.is_some_and(|at| at >= entry.spawn.facts.started)) =>
            {
                entry.inbox.ready = true;
            }
            // Its driver looks when the time comes, unless it waits for this very ping.
            Liveliness::Ping if entry.spawn.state != SpawnState::Suspect => return true,
            Liveliness::Ping => {}
        }
        entry.bell.notify_one();
        true
    }

    /// Whether a report with this secret is of this spawn.
    pub(crate) fn is_of(&self, id: SpawnId, secret: Option<&str>) -> bool {
        let entry = self.running.get(&id).filter(|entry| !entry.is_given_up());
        entry.is_some_and(|entry| match (&entry.spawn.facts.secret, secret) {
            (Some(own), Some(given)) => own.is(given),
            // An earlier release started it.
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        })
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

    /// When it was last heard of.
    pub(crate) fn last_heard(&self, id: SpawnId) -> Option<Instant> {
        self.running.get(&id)?.spawn.heard
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

    /// Asks for its end. Whatever the outcome, it can not be started any more.
    pub(crate) fn end(&mut self, id: SpawnId, cause: Cause, again: Again, now: Instant) -> Ending {
        if let Some(entry) = self.running.get_mut(&id).filter(|entry| !entry.is_given_up()) {
            let begun = entry.inbox.end.is_some() || entry.spawn.state == SpawnState::Stopping;
            match (begun, again) {
                (true, Again::ChangesNothing) => return Ending::Stopping,
                (true, Again::Hurries) => entry.inbox.hurry = true,
                (false, _) => entry.inbox.end = Some(cause),
            }
            entry.bell.notify_one();
            return Ending::Stopping;
        }
        self.tombstones.add(id, now);
        if self.recent.get(id, now).is_some() { Ending::Ended } else { Ending::Unknown }
    }

    /// Asks for its end unless more than one caller waits for it; `false` when they do.
    pub(crate) fn end_unless_shared(&mut self, id: SpawnId, cause: Cause, now: Instant) -> bool {
        if self.running.get(&id).is_some_and(|entry| entry.waiting > 1) {
            return false;
        }
        self.end(id, cause, Again::ChangesNothing, now);
        true
    }

    /// Asks for the end of all.
    pub(crate) fn end_all(&mut self, cause: Cause, again: Again, now: Instant) {
        let all: Vec<SpawnId> = self.running.keys().copied().collect();
        for id in all {
            self.end(id, cause, again, now);
        }
    }

    /// A caller is done waiting. When it was the last and nobody was answered, nobody wants the spawn.
    pub(crate) fn leave(&mut self, id: SpawnId, answered: bool, now: Instant) {
        let Some(entry) = self.running.get_mut(&id) else { return };
        entry.waiting = entry.waiting.saturating_sub(1);
        entry.answered |= answered;
        if entry.waiting == 0 && !entry.answered {
            self.end(id, Cause::Cancelled, Again::ChangesNothing, now);
        }
    }

    pub(crate) fn shut(&mut self, door: Door) {
        self.door = door;
    }

    /// Another agent has the node, at this address. Returns whether that is news.
    pub(crate) fn taken_by(&mut self, other: &str) -> bool {
        if matches!(self.door, Door::Open) {
            self.door = Door::Taken;
        }
        let news = self.taken_by.as_deref() != Some(other);
        self.taken_by = Some(other.to_owned());
        news
    }

    /// The node is this agent's after all. Returns whether it was another's before.
    pub(crate) fn is_mine(&mut self) -> bool {
        if self.door == Door::Taken {
            self.door = Door::Open;
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

    /// The registry has lost what it had accepted after this change: the ends among it are to be reported again.
    pub(crate) fn report_again(&mut self, after: u64, now: Instant) {
        self.backlog.report_again(after, now);
        self.relay.notify_one();
    }

    /// The most spawns there may be: no more than there are, once the agent only waits for their ends.
    /// Slots of starts that hang are not offered.
    pub(crate) fn slots(&self) -> u32 {
        let hung = self.running.len() - self.running();
        let slots =
            if self.door == Door::Emptying { self.running() } else { self.slots.saturating_sub(hung) };
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    pub(crate) fn door(&self) -> Door {
        self.door
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

    pub(crate) fn end_launching(&mut self, now: Instant) {
        let launching: Vec<SpawnId> = self
            .running
            .values()
            .filter(|e| e.spawn.state == SpawnState::Launching)
            .map(|e| e.spawn.facts.id)
            .collect();
        for id in launching {
            self.end(id, Cause::Cancelled, Again::ChangesNothing, now);
        }
    }

    /// Those that are being ended, or will be.
    pub(crate) fn ending(&self) -> usize {
        self.running
            .values()
            .filter(|e| e.spawn.state == SpawnState::Stopping || e.inbox.end.is_some())
            .count()
    }

    pub(crate) fn starting(&self) -> usize {
        self.starting
    }

    pub(crate) fn knows(&self, id: SpawnId) -> bool {
        self.running.get(&id).is_some_and(|entry| !entry.is_given_up())
    }

    /// Those whose process was started, as they are now.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.running.values().filter(|e| e.stage == Stage::Launched).map(|e| &e.spawn)
    }

    pub(crate) fn gpus(&self) -> &Gpus {
        &self.gpus
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

    /// The oldest changes the registry was not told yet.
    pub(crate) fn backlog(&self, most: usize) -> impl Iterator<Item = &Pending> {
        self.backlog.first(most)
    }

    pub(crate) fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    pub(crate) fn dropped_changes(&self) -> u64 {
        self.backlog.dropped()
    }

    /// The registry has accepted everything up to this change. Returns the spawns whose ends were among it.
    pub(crate) fn accepted(&mut self, serial: u64, now: Instant) -> Vec<SpawnId> {
        self.backlog.accept(serial, now)
    }

    pub(crate) fn wait_for_change(&mut self, serial: u64) -> Option<oneshot::Receiver<()>> {
        let wait = self.backlog.wait_for(serial);
        if wait.is_some() {
            self.hurry.notify_one();
        }
        wait
    }

    /// The bells of the relay: there is something to tell, and somebody waits for it.
    pub(crate) fn relay_bells(&self) -> (Arc<Notify>, Arc<Notify>) {
        (Arc::clone(&self.relay), Arc::clone(&self.hurry))
    }

    /// Rings whenever a start is settled, or a spawn has become ready or has ended.
    pub(crate) fn settled_bell(&self) -> Arc<Notify> {
        Arc::clone(&self.settled)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
