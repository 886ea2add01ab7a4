//! The pool of warm servers: what is kept, and what it holds.
//!
//! ```text
//!  keep_another ─▶ Starting ── ready ─▶ Ready ◀──▶ Suspect        a claim: it is a spawn's, and none of the pool's any more
//!                     │                   ├──────────────────────▶
//!                     └───── end ─────────┴──▶ Ending ── gone ─▶ what it held is free, or is a spawn's that waited for it
//! ```
//!
//! A warm server holds a port, a user and a GPU slot as a spawn does, from `keep_another` until it is `gone`, and counts against `--slots` with
//! the spawns. It is no spawn: the registry does not know it, and no list shows it. One task owns its process (`crate::warm::keeper`);
//! `claim` says how a spawn gets it. [`plan`] decides what is started and ended.

pub(crate) mod plan;

use std::sync::Arc;

use model::{Eligibility, RendererType, SpawnId, Supply, WarmCount};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::plan::{Kept, Plan, Wanted, plan};
use super::pool::{KeptServer, PoolEntry, WarmEnd, WarmStage};
use super::{AdmissionMode, Inbox, Liveliness, Table};
use crate::secret::Secret;
use crate::spawn::Facts;
use crate::spawn::exit::Cause;

impl Table {
    /// What is to be started and ended now. Nothing while the agent ends: it says itself what becomes of them.
    pub(crate) fn plan_warm(&self, has_memory: bool, now: Instant) -> Plan {
        if matches!(self.mode, AdmissionMode::ShuttingDown | AdmissionMode::Emptying) {
            return Plan::default();
        }
        let is_open = self.may_keep();
        let pool = &self.warm;
        let of = |(renderer, count): (&RendererType, &u32)| Wanted {
            renderer: *renderer,
            count: usize::try_from(*count).unwrap_or(usize::MAX),
            is_open: is_open && !pool.failing.contains(renderer),
            may_start: has_memory
                && pool.backoff.get(renderer).is_none_or(|pause| pause.until.is_none_or(|at| at <= now)),
            room: match renderer {
                RendererType::Csr => usize::MAX,
                RendererType::Ssr => self.gpus.room(),
            },
        };
        let wanted: Vec<Wanted> = pool.wanted.iter().map(of).collect();
        let kept: Vec<Kept> = pool
            .sorted()
            .into_iter()
            .map(|entry| Kept {
                id: entry.facts.id,
                renderer: entry.facts.renderer,
                stage: if entry.inbox.end.is_some() { WarmStage::Ending } else { entry.stage },
                is_old: entry.old_at <= now,
            })
            .collect();
        // One that makes room for a spawn is counted with that spawn.
        let lent = pool.kept.len() - pool.unlent();
        plan(self.slots + lent, self.running.len(), &wanted, &kept)
    }

    /// Whether the node may have warm servers.
    fn may_keep(&self) -> bool {
        self.mode == AdmissionMode::Open && self.eligibility() == Eligibility::Eligible
    }

    /// When [`Self::plan_warm`] may come to another plan although nothing has happened.
    pub(crate) fn next_warm_plan(&self, now: Instant) -> Option<Instant> {
        let old = self.warm.kept.values().map(|entry| entry.old_at);
        let paused = self.warm.backoff.values().filter_map(|pause| pause.until);
        old.chain(paused).filter(|at| *at > now).min()
    }

    /// Wakes the task that keeps the pool.
    pub(crate) fn warm_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.warm.changed)
    }

    /// Takes what another warm server needs. `None` when there is none of it.
    pub(crate) fn keep_another(&mut self, renderer: RendererType, now: Instant) -> Option<KeptServer> {
        let port = self.take_port()?;
        let Some(user) = self.users.take() else {
            self.ports.give_back(port);
            return None;
        };
        let gpu = match renderer {
            RendererType::Csr => None,
            RendererType::Ssr => self.gpus.take(),
        };
        let (id, secret) = (SpawnId::mint(), Secret::mint());
        let facts = Facts { user, gpu, ..Facts::of_warm_server(id, renderer, port, secret, now) };
        Some(self.put_warm(facts, WarmStage::Starting, 0, now))
    }

    /// Takes over one that an earlier agent has kept. `why`: it is ended.
    pub(crate) fn adopt_warm(
        &mut self,
        facts: Facts,
        pid: u32,
        is_ready: bool,
        why: Option<WarmEnd>,
        now: Instant,
    ) -> KeptServer {
        self.ports.claim(facts.port);
        self.users.claim(facts.user);
        if let Some(gpu) = facts.gpu {
            self.gpus.claim(gpu);
        }
        let id = facts.id;
        let stage = if is_ready { WarmStage::Ready } else { WarmStage::Starting };
        let kept = self.put_warm(facts, stage, pid, now);
        if let Some(why) = why {
            self.end_warm(id, why);
        }
        kept
    }

    fn put_warm(&mut self, facts: Facts, stage: WarmStage, pid: u32, now: Instant) -> KeptServer {
        let facts = Arc::new(facts);
        let notify = Arc::new(Notify::new());
        let (claim, claimed) = oneshot::channel();
        // Those that were started together do not all end together.
        let age = self.warm.max_age.mul_f64(0.8 + fastrand::f64() / 5.0);
        let entry = PoolEntry {
            facts: Arc::clone(&facts),
            stage,
            is_starting: false,
            pid,
            heard: now,
            old_at: facts.started + age,
            inbox: Inbox::default(),
            why: None,
            notify: Arc::clone(&notify),
            claim,
            lent: None,
            gone: CancellationToken::new(),
        };
        self.warm.kept.insert(facts.id, entry);
        KeptServer { facts, notify, claimed }
    }

    /// Its turn has come: its process is started now, unless it must not be any more. The plan follows an order only later, so the order
    /// counts here too. What closes the node after this waits until the start is settled.
    pub(crate) fn begin_warm_start(&mut self, id: SpawnId) -> bool {
        let may_keep = self.may_keep();
        let entry = self.warm.kept.get_mut(&id).filter(|entry| may_keep && entry.inbox.end.is_none());
        entry.map(|entry| entry.is_starting = true).is_some()
    }

    /// Its process runs.
    pub(crate) fn warm_started(&mut self, id: SpawnId, pid: u32) {
        if let Some(entry) = self.warm.kept.get_mut(&id) {
            entry.pid = pid;
        }
        self.give_up_warm_start(id);
    }

    /// Nothing waits for its start any more.
    pub(crate) fn give_up_warm_start(&mut self, id: SpawnId) {
        if let Some(entry) = self.warm.kept.get_mut(&id) {
            entry.is_starting = false;
            self.settled.notify_waiters();
        }
    }

    /// The servers whose processes are being started.
    pub(super) fn starting_warm(&self) -> impl Iterator<Item = SpawnId> {
        self.warm.kept.values().filter(|entry| entry.is_starting).map(|entry| entry.facts.id)
    }

    /// Whether it is to be ended.
    pub(crate) fn is_warm_unwanted(&self, id: SpawnId) -> bool {
        self.warm.kept.get(&id).is_none_or(|entry| entry.inbox.end.is_some())
    }

    /// It has come into another stage.
    pub(crate) fn enter_warm(&mut self, id: SpawnId, stage: WarmStage) {
        if let Some(entry) = self.warm.kept.get_mut(&id) {
            entry.stage = stage;
            self.warm.changed.notify_one();
        }
    }

    /// What its keeper has not seen yet, and when it was last heard.
    pub(crate) fn collect_warm(&mut self, id: SpawnId) -> Option<(Inbox, Instant)> {
        let entry = self.warm.kept.get_mut(&id)?;
        let inbox = entry.inbox;
        // That it is to be ended stays, so that no request gets it.
        entry.inbox = Inbox { end: inbox.end, ..Inbox::default() };
        Some((inbox, entry.heard))
    }

    /// When it was last heard.
    pub(crate) fn warm_heard(&self, id: SpawnId) -> Option<Instant> {
        Some(self.warm.kept.get(&id)?.heard)
    }

    /// Asks for its end.
    pub(crate) fn end_warm(&mut self, id: SpawnId, why: WarmEnd) {
        if let Some(entry) = self.warm.kept.get_mut(&id)
            && entry.inbox.end.is_none()
        {
            entry.inbox.end = Some(Cause::Drained);
            entry.why = Some(why);
            entry.notify.notify_one();
        }
    }

    /// Asks for the end of all.
    pub(crate) fn end_all_warm(&mut self, why: WarmEnd) {
        let all: Vec<SpawnId> = self.warm.kept.keys().copied().collect();
        for id in all {
            self.end_warm(id, why);
        }
    }

    /// It is gone: what it held is free, unless a spawn has waited for that. Returns why it was ended, or that it ended by itself; `None`: it is
    /// none of the pool, a spawn may have claimed it.
    pub(crate) fn warm_gone(&mut self, id: SpawnId, now: Instant) -> Option<Option<WarmEnd>> {
        let entry = self.warm.kept.remove(&id)?;
        let lent = entry.lent.unwrap_or_default();
        if !lent.port {
            self.ports.give_back(entry.facts.port);
        }
        if !lent.user {
            self.users.give_back(entry.facts.user);
        }
        if let Some(gpu) = entry.facts.gpu.filter(|_| !lent.gpu) {
            self.gpus.give_back(gpu);
        }
        if entry.why.is_none() {
            self.warm.failed(entry.facts.renderer, now);
        } else if entry.why == Some(WarmEnd::Aged) {
            self.warm.succeeded(entry.facts.renderer);
        }
        entry.gone.cancel();
        self.warm.changed.notify_one();
        self.settled.notify_waiters();
        Some(entry.why)
    }

    /// How many there are, those that are starting or ending included.
    pub(crate) fn warm_servers(&self) -> usize {
        self.warm.kept.len()
    }

    /// How many are being ended.
    pub(crate) fn ending_warm(&self) -> usize {
        self.warm.kept.values().filter(|entry| entry.inbox.end.is_some()).count()
    }

    /// What is known of those whose processes run.
    pub(crate) fn warm_facts(&self) -> impl Iterator<Item = &Arc<Facts>> {
        self.warm.kept.values().filter(|entry| entry.pid != 0).map(|entry| &entry.facts)
    }

    /// The registry says for which renderers starts fail here.
    pub(crate) fn set_failing(&mut self, failing: Vec<RendererType>) {
        if self.warm.failing != failing {
            self.warm.failing = failing;
            self.warm.changed.notify_one();
        }
    }

    /// As the registry is to know it.
    pub(crate) fn supply(&self, starts: model::Starts, now: Instant) -> Supply {
        let count = |(renderer, wanted): (&RendererType, &u32)| {
            let ready = self
                .warm
                .kept
                .values()
                .filter(|entry| entry.facts.renderer == *renderer && self.warm.is_claimable(entry, now));
            let ready = u32::try_from(ready.count()).unwrap_or(u32::MAX);
            (*renderer, WarmCount { ready, wanted: *wanted })
        };
        Supply { starts: Some(starts), warm: self.warm.wanted.iter().map(count).collect() }
    }

    /// Takes in what a warm server says of itself; `false` when it is none.
    pub(super) fn heard_warm(&mut self, id: SpawnId, what: Liveliness, now: Instant) -> bool {
        let Some(entry) = self.warm.kept.get_mut(&id) else { return false };
        entry.heard = now;
        match what {
            Liveliness::Ready => entry.inbox.ready = true,
            Liveliness::Disconnect => entry.inbox.disconnect = true,
            // An adopted one may have said `ready` while no agent listened.
            Liveliness::Ping if entry.stage == WarmStage::Starting => entry.inbox.ready = true,
            Liveliness::Ping if entry.stage == WarmStage::Ready => return true,
            Liveliness::Ping => {}
        }
        entry.notify.notify_one();
        true
    }

    /// Something has connected to one of these ports, on which warm servers listen: no spawn may get such a server.
    pub(super) fn used_warm(&mut self, has_connection: impl Fn(u16) -> bool) {
        let used = self.warm.kept.values().filter(|entry| has_connection(entry.facts.port));
        let used: Vec<SpawnId> = used.map(|entry| entry.facts.id).collect();
        for id in used {
            self.end_warm(id, WarmEnd::Used);
        }
    }
}
