//! How a spawn gets a warm server, and how warm servers make room for spawns that need one of their own.
//!
//! A claim moves port, user, GPU slot and secret from the pool to the spawn in one step, so no two spawns get one server, and the counts of
//! slots stay right. The server's keeper hands its process over afterwards; if that has just ended, the spawn starts one of its own in the
//! same place ([`Table::start_cold`]).
//!
//! A spawn that finds a slot, GPU slot, port or user taken by a warm server takes it at once, and starts when that server has ended: so
//! there are never more processes than slots.

use std::sync::Arc;

use model::{RendererType, SpawnId};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::holding::{Claimed, Holding};
use super::pool::{Lent, PoolEntry};
use super::pool::{WarmEnd, WarmStage};
use super::{Inbox, Table};
use crate::procfs;
use crate::secret::Secret;
use crate::spawn::{Facts, Refusal, RefusalKind};
use crate::users::user::Ids;

/// Why a request got no warm server although some are kept of its renderer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Miss {
    /// It asks for something special: a model, or a session token.
    Special,
    /// One is starting.
    Starting,
    /// There is none.
    Empty,
    /// It died in this very moment.
    Died,
}

impl Miss {
    pub(crate) const ALL: [Self; 4] = [Self::Special, Self::Starting, Self::Empty, Self::Died];

    /// The word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Special => "special",
            Self::Starting => "starting",
            Self::Empty => "empty",
            Self::Died => "died",
        }
    }
}

impl Table {
    /// Takes the oldest warm server of this renderer out of the pool, for a spawn.
    pub(super) fn claim_warm(
        &mut self,
        id: SpawnId,
        renderer: RendererType,
        now: Instant,
    ) -> Option<Claimed> {
        loop {
            let candidates = self
                .warm
                .kept
                .values()
                .filter(|entry| entry.facts.renderer == renderer && self.warm.is_claimable(entry, now));
            let server = candidates.min_by_key(|entry| entry.facts.started)?.facts.id;
            let entry = self.warm.kept.remove(&server)?;
            // The kernel knows of an end before its keeper has looked.
            let lives = procfs::stat(entry.pid).is_some_and(|process| !process.has_ended());
            let (successor, body) = oneshot::channel();
            if !lives || entry.claim.is_closed() {
                let inbox = Inbox { disconnect: true, ..entry.inbox };
                self.warm.kept.insert(server, PoolEntry { inbox, ..entry });
                continue;
            }
            self.warm.claimed.insert(server, id);
            self.warm.succeeded(renderer);
            self.warm.changed.notify_one();
            let facts = &entry.facts;
            let holding = Holding { port: facts.port, user: facts.user, gpu: facts.gpu, after: None };
            let secret = facts.secret.clone();
            // A keeper that is gone has dropped it, which the spawn sees by its end.
            entry.claim.send(successor).ok();
            return Some(Claimed { holding, secret, server, body });
        }
    }

    /// Why a request of this renderer gets no warm server; `None` where none are kept.
    pub(crate) fn why_missed(&self, renderer: RendererType, is_special: bool) -> Option<Miss> {
        if !self.warm.wants(renderer) {
            return None;
        }
        let is_starting = |renderer| {
            let mut kept = self.warm.kept.values();
            kept.any(|entry| entry.facts.renderer == renderer && entry.stage == WarmStage::Starting)
        };
        Some(match is_special {
            true => Miss::Special,
            false if is_starting(renderer) => Miss::Starting,
            false => Miss::Empty,
        })
    }

    /// Takes what a spawn needs that starts a server of its own. A warm server makes room where it must.
    pub(super) fn make_room(&mut self, renderer: RendererType) -> Result<Holding, Refusal> {
        let is_ssr = renderer == RendererType::Ssr;
        let lacks_gpu = is_ssr && !self.gpus.has_room();
        let lacks_slot = self.running.len() + self.warm.unlent() >= self.slots;
        let mut victim = (lacks_slot || lacks_gpu).then(|| self.victim(lacks_gpu));
        if let Some(None) = victim {
            return Err(match lacks_gpu {
                true => RefusalKind::GpusFull.because("every GPU slot is taken"),
                false => RefusalKind::Full.because(format!("all {} slots are taken", self.slots)),
            });
        }
        let mut lent = Lent { gpu: lacks_gpu, ..Lent::default() };
        let port = self.take_port();
        if port.is_none() {
            victim = victim.or_else(|| Some(self.victim(false)));
            lent.port = true;
        }
        let Some(port) = port.or_else(|| self.port_of(victim.flatten()?)) else {
            return Err(RefusalKind::NoPort.because("no port of --ports is free"));
        };
        let user = self.users.take();
        if user.is_none() {
            victim = victim.or_else(|| Some(self.victim(false)));
            lent.user = true;
        }
        let Some(user) = user.or_else(|| self.user_of(victim.flatten()?)) else {
            if !lent.port {
                self.ports.give_back(port);
            }
            return Err(RefusalKind::Full.because("every user of --spawn-user is taken"));
        };
        let gpu = match (is_ssr, lacks_gpu) {
            (false, _) => None,
            (true, false) => self.gpus.take(),
            (true, true) => victim.flatten().and_then(|id| self.warm.kept.get(&id)?.facts.gpu),
        };
        let after = victim.flatten().and_then(|id| self.lend(id, lent));
        Ok(Holding { port, user, gpu, after })
    }

    /// The warm server whose end costs least; with `gpu`, one that has a GPU slot.
    fn victim(&self, gpu: bool) -> Option<SpawnId> {
        let may = self
            .warm
            .kept
            .values()
            .filter(|entry| entry.lent.is_none() && (!gpu || entry.facts.gpu.is_some()));
        let cost = |entry: &&PoolEntry| {
            (entry.inbox.end.is_none(), entry.stage == WarmStage::Ready, entry.facts.started)
        };
        may.min_by_key(cost).map(|entry| entry.facts.id)
    }

    fn port_of(&self, id: SpawnId) -> Option<u16> {
        Some(self.warm.kept.get(&id)?.facts.port)
    }

    fn user_of(&self, id: SpawnId) -> Option<Option<Ids>> {
        Some(self.warm.kept.get(&id)?.facts.user)
    }

    /// Ends a warm server for a spawn that gets these of it. Resolves when it has ended.
    fn lend(&mut self, id: SpawnId, lent: Lent) -> Option<CancellationToken> {
        let entry = self.warm.kept.get_mut(&id)?;
        entry.lent = Some(lent);
        let gone = entry.gone.clone();
        self.end_warm(id, WarmEnd::Room);
        Some(gone)
    }

    /// Ends a warm server so that its memory can be had. Resolves when it has ended; `None` when there is none.
    pub(crate) fn end_one_for_memory(&mut self) -> Option<CancellationToken> {
        let id = self.victim(false)?;
        let gone = self.warm.kept.get(&id)?.gone.clone();
        self.end_warm(id, WarmEnd::Room);
        Some(gone)
    }

    /// The server that a spawn was to get has just ended: it starts one of its own with what it has. `None` when it is not here any more.
    pub(crate) fn start_cold(&mut self, id: SpawnId) -> Option<Arc<Facts>> {
        let before = Arc::clone(&self.running.get(&id)?.spawn.facts);
        if let Some(server) = before.server {
            self.warm.claimed.remove(&server);
        }
        let secret = Secret::mint();
        let token = secret.viewer_token();
        let endpoint = self.endpoint(before.endpoint_form.as_ref(), id, before.port, Some(&token));
        let (secret, token) = (Some(secret), Some(token));
        let facts = Arc::new(Facts { server: None, secret, token, endpoint, ..Facts::clone(&before) });
        self.running.get_mut(&id)?.spawn.facts = Arc::clone(&facts);
        Some(facts)
    }

    /// The spawn that a server reports for, by the id that it was started with.
    pub(super) fn spawn_of_server(&self, id: SpawnId) -> SpawnId {
        self.warm.claimed.get(&id).copied().unwrap_or(id)
    }
}
