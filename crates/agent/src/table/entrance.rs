//! Admission to the table, and what becomes of an admitted spawn until its process runs.
//!
//! [`Table::admit`] is the one place that decides. A start that takes too long is given up: its callers are refused, and what it holds stays
//! taken until the disk answers, so that a process that comes about after all never shares a port or a slot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Eligibility, Origin, Owner, RendererType, SpawnId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{AdmissionMode, Entry, Inbox, Stage, Table};
use crate::endpoint::EndpointForm;
use crate::liveliness::secret::Secret;
use crate::ports;
use crate::spawn::{Answer, Facts, Refusal, RefusalKind, Snapshot};

/// A search for the owners of taken ports takes no more ports at once.
const MAX_PORTS_FOUND_TAKEN: usize = 1000;

/// What a request wants, as far as the table cares.
#[derive(Debug, Clone)]
pub(crate) struct SpawnSpec {
    pub(crate) id: SpawnId,
    pub(crate) renderer: RendererType,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) owner: Option<Owner>,
    /// The request that it comes from.
    pub(crate) origin: Origin,
    /// The form of its endpoint, if it is not the agent's own.
    pub(crate) endpoint_form: Option<EndpointForm>,
    /// How long it may live.
    pub(crate) max_life: Option<Duration>,
    /// How long its viewer may send nothing.
    pub(crate) max_idle: Option<Duration>,
}

/// An admitted spawn, for the task that will own it.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) facts: Arc<Facts>,
    pub(crate) notify: Arc<Notify>,
    pub(crate) answer: watch::Sender<Option<Answer>>,
}

/// The decision on a request.
#[derive(Debug)]
pub(crate) enum Admission {
    New(Admitted, watch::Receiver<Option<Answer>>),
    /// The spawn is here already; this will be (or was) its answer.
    Joined(watch::Receiver<Option<Answer>>),
    Refused(Refusal),
}

impl Table {
    /// Joins a spawn that is here already.
    pub(crate) fn join(&mut self, id: SpawnId, now: Instant) -> Option<watch::Receiver<Option<Answer>>> {
        if let Some(entry) = self.running.get_mut(&id) {
            entry.waiting += 1;
            return Some(entry.answer.clone());
        }
        self.recent.get(id, now).map(|entry| entry.answer.clone())
    }

    /// Admits a spawn, or says why not. The one place that decides.
    pub(crate) fn admit(&mut self, ask: SpawnSpec, now: Instant) -> Admission {
        if let Some(answer) = self.join(ask.id, now) {
            return Admission::Joined(answer);
        }
        match self.may_enter(&ask, now) {
            Ok(()) => {}
            Err(refusal) => return Admission::Refused(refusal),
        }
        let Some(port) = self.take_port() else {
            return Admission::Refused(RefusalKind::NoPort.because("no port of --ports is free"));
        };
        let Some(user) = self.users.take() else {
            self.ports.give_back(port);
            return Admission::Refused(RefusalKind::Full.because("every user of --spawn-user is taken"));
        };
        let gpu = match ask.renderer {
            RendererType::Csr => None,
            RendererType::Ssr => self.gpus.take(),
        };
        let secret = Secret::mint();
        let token = secret.viewer_token();
        let facts = Arc::new(Facts {
            id: ask.id,
            renderer: ask.renderer,
            port,
            endpoint: self.endpoint(ask.endpoint_form.as_ref(), ask.id, port, Some(&token)),
            gpu,
            labels: ask.labels,
            tags: ask.tags,
            owner: ask.owner,
            origin: ask.origin,
            secret: Some(secret),
            token: Some(token),
            endpoint_form: ask.endpoint_form,
            user,
            max_idle: ask.max_idle,
            started: now,
        });
        let notify = Arc::new(Notify::new());
        let (answer, receiver) = watch::channel(None);
        let entry = Entry {
            spawn: Snapshot {
                expires: ask.max_life.map(|life| now + life),
                ..Snapshot::new(Arc::clone(&facts))
            },
            pid: 0,
            stage: Stage::Starting,
            inbox: Inbox::default(),
            notify: Arc::clone(&notify),
            answer: receiver.clone(),
            waiting: 1,
            answered: false,
            adopted: false,
            viewer: None,
            active: None,
        };
        self.running.insert(ask.id, entry);
        self.starting += 1;
        Admission::New(Admitted { facts, notify, answer }, receiver)
    }

    fn take_port(&mut self) -> Option<u16> {
        let found = &mut self.ports_found_taken;
        self.ports.take(|port| {
            let free = ports::is_free(port);
            if !free && found.len() < MAX_PORTS_FOUND_TAKEN {
                found.push(port);
            }
            free
        })
    }

    fn may_enter(&mut self, ask: &SpawnSpec, now: Instant) -> Result<(), Refusal> {
        match self.mode {
            AdmissionMode::Open => {}
            AdmissionMode::ShuttingDown | AdmissionMode::Emptying => {
                return Err(RefusalKind::ShuttingDown.because("the agent is going away"));
            }
            AdmissionMode::Taken => {
                let other = self.taken_by.as_deref().unwrap_or_default();
                return Err(
                    RefusalKind::ShuttingDown.because(format!("another agent has this node, at {other}"))
                );
            }
            AdmissionMode::Superseded => {
                return Err(RefusalKind::ShuttingDown.because("another agent has taken this node over"));
            }
        }
        if self.tombstones.contains(ask.id, now) {
            return Err(RefusalKind::Abandoned.because("it was stopped, abandoned or has ended before"));
        }
        let eligibility = self.eligibility();
        if eligibility != Eligibility::Eligible {
            return Err(RefusalKind::NotEligible.because(format!("the node is {eligibility}")));
        }
        let on = match ask.renderer {
            RendererType::Csr => self.csr,
            RendererType::Ssr => self.ssr,
        };
        if !on {
            return Err(
                RefusalKind::RendererOff.because(format!("{} is switched off on this node", ask.renderer))
            );
        }
        if self.running.len() >= self.slots {
            return Err(RefusalKind::Full.because(format!("all {} slots are taken", self.slots)));
        }
        if ask.renderer == RendererType::Ssr && !self.gpus.has_room() {
            return Err(RefusalKind::GpusFull.because("every GPU slot is taken"));
        }
        Ok(())
    }

    /// Its process was started: publishes the spawn. `false` when the start was given up before.
    pub(crate) fn launched(&mut self, id: SpawnId, pid: u32, now: Instant) -> bool {
        let Some(entry) = self.running.get_mut(&id).filter(|entry| entry.stage == Stage::Starting) else {
            return false;
        };
        entry.pid = pid;
        entry.stage = Stage::Launched;
        // What came while it was being started.
        entry.notify.notify_one();
        let spawn = entry.spawn.clone();
        self.settle_one_start();
        self.publish(spawn, now);
        true
    }

    /// Its process could not be started: as if it had never been here.
    pub(crate) fn not_launched(&mut self, id: SpawnId) {
        if let Some(entry) = self.running.remove(&id) {
            if entry.stage == Stage::Starting {
                self.settle_one_start();
            }
            self.give_back(&entry.spawn.facts);
        }
    }

    /// Gives up its start: a process that starts after all is ended at once. Its slot, port and GPU stay taken until
    /// it is known what came of the start.
    pub(crate) fn give_up_start(&mut self, id: SpawnId) {
        if let Some(entry) = self.running.get_mut(&id)
            && entry.stage == Stage::Starting
        {
            entry.stage = Stage::GivenUp;
            self.settle_one_start();
        }
    }

    /// Gives up every start that is under way.
    pub(crate) fn give_up_starts(&mut self) {
        let starting = self.running.values().filter(|entry| entry.stage == Stage::Starting);
        let ids: Vec<SpawnId> = starting.map(|entry| entry.spawn.facts.id).collect();
        for id in ids {
            self.give_up_start(id);
        }
    }

    /// Another process has taken its port before it could listen: it gets another one. `None` when its end is wanted, the agent ends, or
    /// no port is free.
    pub(crate) fn relocate(&mut self, id: SpawnId) -> Option<Arc<Facts>> {
        if matches!(self.mode, AdmissionMode::ShuttingDown | AdmissionMode::Taken | AdmissionMode::Superseded)
        {
            return None;
        }
        let entry = self.running.get(&id)?;
        if !entry.inbox.is_empty() {
            return None;
        }
        let before = Arc::clone(&entry.spawn.facts);
        let port = self.ports.take_any(ports::is_free)?;
        self.ports.give_back(before.port);
        let endpoint = self.endpoint(before.endpoint_form.as_ref(), id, port, before.token.as_ref());
        let facts = Arc::new(Facts { port, endpoint, ..Facts::clone(&before) });
        self.running.get_mut(&id)?.spawn.facts = Arc::clone(&facts);
        Some(facts)
    }

    /// Another process was started for it.
    pub(crate) fn restarted(&mut self, id: SpawnId, pid: u32) {
        if let Some(entry) = self.running.get_mut(&id) {
            entry.pid = pid;
        }
    }

    fn settle_one_start(&mut self) {
        self.starting = self.starting.saturating_sub(1);
        if self.starting == 0 {
            self.settled.notify_waiters();
        }
    }
}
