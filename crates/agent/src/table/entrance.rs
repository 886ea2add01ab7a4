//! Admission to the table, and what becomes of an admitted spawn until its process runs.
//!
//! [`Table::admit`] is the one place that decides. A start that takes too long is given up: its callers are refused, and what it holds stays
//! taken until the disk answers, so that a process that comes about after all never shares a port or a slot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Eligibility, Origin, Owner, RendererType, SpawnId};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::holding::{Claimed, Holding};
use super::{AdmissionMode, Entry, Inbox, Stage, Table};
use crate::endpoint::EndpointForm;
use crate::secret::Secret;
use crate::spawn::body::Body;
use crate::spawn::exit::Cause;
use crate::spawn::{Facts, Refusal, RefusalKind, SpawnOutcome, SpawnStatus};

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

/// What a request needs that decides whether a warm server will do.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// It asks for a model or a session token: a server of its own.
    pub(crate) is_special: bool,
    /// Why no server may be started now. One that runs may be given all the same.
    pub(crate) no_start: Option<Refusal>,
}

/// What a spawn begins with.
#[derive(Debug)]
pub(crate) enum Source {
    /// A server of its own. It starts once what made room for it has ended.
    Start { after: Option<CancellationToken> },
    /// A warm server, which its keeper hands over.
    Warm(oneshot::Receiver<Body>),
}

impl Default for Source {
    fn default() -> Self {
        Self::Start { after: None }
    }
}

/// An admitted spawn, for the task that will own it.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) facts: Arc<Facts>,
    pub(crate) notify: Arc<Notify>,
    pub(crate) answer: watch::Sender<Option<SpawnOutcome>>,
    pub(crate) source: Source,
}

/// The decision on a request.
#[derive(Debug)]
pub(crate) enum Admission {
    New(Admitted, watch::Receiver<Option<SpawnOutcome>>),
    /// The spawn is here already; this will be (or was) its answer.
    Joined(watch::Receiver<Option<SpawnOutcome>>),
    Refused(Refusal),
}

impl Table {
    /// Joins a spawn that is here already.
    pub(crate) fn join(
        &mut self,
        id: SpawnId,
        now: Instant,
    ) -> Option<watch::Receiver<Option<SpawnOutcome>>> {
        if let Some(entry) = self.running.get_mut(&id) {
            entry.waiting += 1;
            return Some(entry.answer.clone());
        }
        self.recent.get(id, now).map(|entry| entry.answer.clone())
    }

    /// Admits a spawn that needs nothing special.
    #[cfg(test)]
    pub(crate) fn admit(&mut self, ask: SpawnSpec, now: Instant) -> Admission {
        self.admit_with(ask, Needs::default(), now)
    }

    /// Admits a spawn, with a warm server where one will do, or says why not. The one place that decides.
    pub(crate) fn admit_with(&mut self, ask: SpawnSpec, needs: Needs, now: Instant) -> Admission {
        if let Some(answer) = self.join(ask.id, now) {
            return Admission::Joined(answer);
        }
        match self.may_enter(&ask, now) {
            Ok(()) => {}
            Err(refusal) => return Admission::Refused(refusal),
        }
        let claimed = if needs.is_special { None } else { self.claim_warm(ask.id, ask.renderer, now) };
        let (holding, source, secret, server) = match claimed {
            Some(Claimed { holding, secret, server, body }) => {
                (holding, Source::Warm(body), secret.unwrap_or_else(Secret::mint), Some(server))
            }
            None => {
                if let Some(refusal) = needs.no_start {
                    return Admission::Refused(refusal);
                }
                match self.make_room(ask.renderer) {
                    Ok(holding) => {
                        let source = Source::Start { after: holding.after.clone() };
                        (holding, source, Secret::mint(), None)
                    }
                    Err(refusal) => return Admission::Refused(refusal),
                }
            }
        };
        let Holding { port, user, gpu, after: _ } = holding;
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
            server,
            max_idle: ask.max_idle,
            started: now,
        });
        let notify = Arc::new(Notify::new());
        let (answer, receiver) = watch::channel(None);
        let entry = Entry {
            spawn: SpawnStatus {
                expires: ask.max_life.map(|life| now + life),
                ..SpawnStatus::new(Arc::clone(&facts))
            },
            pid: 0,
            stage: Stage::Queued,
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
        Admission::New(Admitted { facts, notify, answer, source }, receiver)
    }

    pub(super) fn take_port(&mut self) -> Option<u16> {
        let found = &mut self.ports_found_taken;
        let is_free = self.ports.test();
        self.ports.take(|port| {
            let free = is_free(port);
            if !free && found.len() < MAX_PORTS_FOUND_TAKEN {
                found.push(port);
            }
            free
        })
    }

    fn check_mode(&self) -> Result<(), Refusal> {
        let why = match self.mode {
            AdmissionMode::Open => return Ok(()),
            AdmissionMode::ShuttingDown | AdmissionMode::Emptying => "the agent is going away".to_owned(),
            AdmissionMode::Taken => {
                format!("another agent has this node, at {}", self.taken_by.as_deref().unwrap_or_default())
            }
            AdmissionMode::Superseded => "another agent has taken this node over".to_owned(),
        };
        Err(RefusalKind::ShuttingDown.because(why))
    }

    fn check_eligibility(&self) -> Result<(), Refusal> {
        match self.eligibility() {
            Eligibility::Eligible => Ok(()),
            other => Err(RefusalKind::NotEligible.because(format!("the node is {other}"))),
        }
    }

    /// Whether it was stopped or abandoned before it came, or has ended here.
    pub(crate) fn must_not_start(&mut self, id: SpawnId, now: Instant) -> bool {
        self.tombstones.contains(id, now)
    }

    fn may_enter(&mut self, ask: &SpawnSpec, now: Instant) -> Result<(), Refusal> {
        self.check_mode()?;
        if self.must_not_start(ask.id, now) {
            return Err(RefusalKind::Abandoned.because("it was stopped, abandoned or has ended before"));
        }
        self.check_eligibility()?;
        let on = match ask.renderer {
            RendererType::Csr => self.csr,
            RendererType::Ssr => self.ssr,
        };
        if !on {
            return Err(
                RefusalKind::RendererOff.because(format!("{} is switched off on this node", ask.renderer))
            );
        }
        // Its slot counts until its start is over, whatever its server was to be.
        if self.running.len() >= self.slots {
            return Err(RefusalKind::Full.because(format!("all {} slots are taken", self.slots)));
        }
        Ok(())
    }

    /// Its turn has come: its process is started now, unless it must not be any more. Whatever is ordered after this waits until it
    /// is settled.
    pub(crate) fn begin_start(&mut self, id: SpawnId) -> Result<(), Refusal> {
        self.may_start(id)?;
        let entry = self.running.get_mut(&id).filter(|entry| entry.stage == Stage::Queued);
        let entry = entry.ok_or_else(|| RefusalKind::Abandoned.because("it is not here any more"))?;
        entry.stage = Stage::Starting;
        self.starting += 1;
        Ok(())
    }

    /// Whether it may start when its turn comes, as far as is known.
    pub(crate) fn may_start(&self, id: SpawnId) -> Result<(), Refusal> {
        self.check_mode()?;
        self.check_eligibility()?;
        self.unwanted(id).map_or(Ok(()), Err)
    }

    /// Why a spawn whose turn has not come must not start any more: its end is wanted.
    pub(crate) fn unwanted(&self, id: SpawnId) -> Option<Refusal> {
        match self.running.get(&id)?.inbox.end? {
            Cause::ReadyTimeout => Some(RefusalKind::StartsBusy.because(self.busy())),
            _ => Some(RefusalKind::Abandoned.because("it was stopped or abandoned before its start")),
        }
    }

    /// Whether its start waits for its turn.
    pub(crate) fn is_queued(&self, id: SpawnId) -> bool {
        self.running.get(&id).is_some_and(|entry| entry.stage == Stage::Queued)
    }

    /// In words for callers.
    pub(crate) fn busy(&self) -> String {
        format!("others were still starting when its time was over: {} start at once (--starts)", self.starts)
    }

    /// Its process was started: publishes the spawn. `false` when the start was given up before.
    pub(crate) fn launched(&mut self, id: SpawnId, pid: u32, now: Instant) -> bool {
        let Some(entry) = self.running.get_mut(&id) else { return false };
        let began = match entry.stage {
            Stage::Starting => true,
            Stage::Queued => false,
            Stage::GivenUp | Stage::Launched => return false,
        };
        entry.pid = pid;
        entry.stage = Stage::Launched;
        // What came while it was being started.
        entry.notify.notify_one();
        let spawn = entry.spawn.clone();
        if began {
            self.settle_one_start();
        }
        self.publish(spawn, now);
        true
    }

    /// Its process could not be started: as if it had never been here.
    pub(crate) fn not_launched(&mut self, id: SpawnId) {
        if let Some(entry) = self.running.remove(&id) {
            if entry.stage == Stage::Starting {
                self.settle_one_start();
            }
            if let Some(server) = entry.spawn.facts.server {
                self.warm.claimed.remove(&server);
            }
            // Its end was wanted before it could begin: a repeated request must not start it.
            if entry.inbox.end.is_some() {
                self.tombstones.add(id, Instant::now());
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
        for id in self.starting_warm().collect::<Vec<_>>() {
            self.give_up_warm_start(id);
        }
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
        let port = self.ports.take_any(self.ports.test())?;
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
