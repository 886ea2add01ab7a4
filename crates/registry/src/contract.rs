//! The contract both backends meet.

use std::path::Path;
use std::time::Duration;

use model::{
    Drain, Eligibility, FarmCause, NodeId, NodeRecord, Owner, SpawnId, SpawnRecord, TicketId, Timestamp,
    Timing,
};
use uuid::Uuid;

use crate::ask::{
    Claim, Follow, IdempotencyKey, Located, Outcomes, Position, Reserve, Reserved, SpawnFilter, SpawnPage,
};
use crate::embedded::Embedded;
use crate::error::{OpenError, RegistryError};
use crate::permits::Permit;
use crate::redis::Redis;
use crate::report::{AgentReport, Orders};

/// A handle to the registry; cloning is cheap. Every call is one atomic step, is bounded in time, and may be repeated.
#[derive(Debug, Clone)]
pub struct Registry(Backend);

#[derive(Debug, Clone)]
enum Backend {
    Embedded(Embedded),
    Redis(Redis),
}

macro_rules! both {
    ($self:ident, $backend:ident => $call:expr) => {
        match &$self.0 {
            Backend::Embedded($backend) => Ok($call),
            Backend::Redis($backend) => $call.await,
        }
    };
}

impl Registry {
    /// A registry that lives in this process and ends with it.
    #[must_use]
    pub fn embedded(timing: Timing) -> Self {
        Self(Backend::Embedded(Embedded::new(timing)))
    }

    /// Opens `embedded` or a Redis URL. The server need not be there yet: calls fail until it is.
    ///
    /// # Errors
    /// The URL or the farm's name is wrong.
    pub fn open(url: &str, farm: &str, timing: Timing) -> Result<Self, OpenError> {
        Self::open_with(url, None, farm, timing)
    }

    /// The same with the server's password in a file. That file, and the files of certificates that the URL names, are read
    /// again for every new connection: a password or certificate may change while the process runs.
    ///
    /// # Errors
    /// The URL, the file or the farm's name is wrong.
    pub fn open_with(
        url: &str,
        password_file: Option<&Path>,
        farm: &str,
        timing: Timing,
    ) -> Result<Self, OpenError> {
        model::id::check_name(farm)?;
        if url == "embedded" && password_file.is_none() {
            return Ok(Self::embedded(timing));
        }
        Redis::open(url, password_file, farm, timing).map(|redis| Self(Backend::Redis(redis)))
    }

    /// Why the last call failed, in the server's words; `None` once a call succeeds.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.0 {
            Backend::Embedded(_) => None,
            Backend::Redis(backend) => backend.trouble(),
        }
    }

    /// What an operator should change about the server, as it was when this process connected to it.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match &self.0 {
            Backend::Embedded(_) => Vec::new(),
            Backend::Redis(backend) => backend.warnings(),
        }
    }

    /// `embedded` or `redis`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        match &self.0 {
            Backend::Embedded(_) => "embedded",
            Backend::Redis(_) => "redis",
        }
    }

    /// The intervals it works with.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        match &self.0 {
            Backend::Embedded(backend) => backend.timing(),
            Backend::Redis(backend) => backend.timing(),
        }
    }

    /// Whether it takes writes, which is what a farm needs of it: a server that refuses them (a replica, one that is full or
    /// has too few replicas, one that cannot save) answers a PING all the same.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn check(&self) -> Result<(), RegistryError> {
        both!(self, b => b.check())
    }

    /// Notes what the starts of one request came to. What becomes of servers after they were ready, the registry learns from
    /// their agents' reports.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn learn(&self, outcomes: &Outcomes) -> Result<(), RegistryError> {
        both!(self, b => b.learn(outcomes))
    }

    /// Why starts fail on every node alike, while they do.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn farm_cause(&self) -> Result<Option<FarmCause>, RegistryError> {
        both!(self, b => b.farm_cause())
    }

    /// The registry's identity: another one means that it was wiped, replaced, or went back to an older state, and that
    /// everything read from it before is void. Random; made with the first write.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn incarnation(&self) -> Result<Uuid, RegistryError> {
        both!(self, b => b.incarnation())
    }

    /// Whether it can be reached.
    ///
    /// # Errors
    /// It cannot.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        both!(self, b => b.ping())
    }

    /// Takes a slot on the best node, or says why not.
    ///
    /// # Errors
    /// The registry is away. A slot may have been taken; it comes back when the reservation expires.
    pub async fn reserve(&self, ask: &Reserve) -> Result<Reserved, RegistryError> {
        both!(self, b => b.reserve(ask))
    }

    /// Gives back a slot for which nothing was started. Does nothing once the agent has reported the spawn.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn release(&self, node: &NodeId, spawn: SpawnId) -> Result<(), RegistryError> {
        both!(self, b => b.release(node, spawn))
    }

    /// Gives back the slot that a reserve took whose answer was lost, if it took one, on whatever node. Does nothing once
    /// the agent has reported the spawn. Looks at the newest reservations that are not confirmed yet, a bounded number of
    /// them; an older one expires.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn renounce(&self, spawn: SpawnId) -> Result<(), RegistryError> {
        both!(self, b => b.renounce(spawn))
    }

    /// Gives up a spawn that may have been started: the agent is told to end it or never to start it. Its slot stays
    /// taken until the agent has said so, or the reservation expires.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn abandon(&self, node: &NodeId, spawn: SpawnId) -> Result<(), RegistryError> {
        both!(self, b => b.abandon(node, spawn))
    }

    /// Says that the holders of these places in line are still there. Places not kept within [`Timing::place`] are
    /// passed over and dropped.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn keep_places(&self, tickets: &[TicketId]) -> Result<(), RegistryError> {
        both!(self, b => b.keep_places(tickets))
    }

    /// Gives up places in line.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn leave_line(&self, tickets: &[TicketId]) -> Result<(), RegistryError> {
        both!(self, b => b.leave_line(tickets))
    }

    /// Asks whether the owner may start one more now, and notes that it did when it may: so many a minute, as many of them at
    /// once as it likes.
    ///
    /// # Errors
    /// The registry is away. The start may have been noted.
    pub async fn permit(&self, owner: &Owner, per_minute: u32) -> Result<Permit, RegistryError> {
        both!(self, b => b.permit(owner, per_minute))
    }

    /// Takes in what an agent reports.
    ///
    /// # Errors
    /// The registry is away; the report must be repeated.
    pub async fn report(&self, report: &AgentReport) -> Result<Orders, RegistryError> {
        both!(self, b => b.report(report))
    }

    /// Does what time asks for: expires reservations and places, calls nodes stale and down and their spawns lost,
    /// forgets old records. Any number of front doors may do it at once; each does a bounded amount.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn sweep(&self) -> Result<(), RegistryError> {
        both!(self, b => b.sweep())
    }

    /// All nodes, by name.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, RegistryError> {
        both!(self, b => b.nodes())
    }

    /// One node.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, RegistryError> {
        both!(self, b => b.node(node))
    }

    /// The present by the registry's clock, the only one that deadlines are compared with.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn now(&self) -> Result<Timestamp, RegistryError> {
        both!(self, b => b.now())
    }

    /// Records what an operator wants of a node and gives the order's number; `None` when there is no such node. `drain` goes
    /// with `draining`; `by` is who asked, for the event.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn set_eligibility(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        by: Option<&str>,
    ) -> Result<Option<u64>, RegistryError> {
        both!(self, b => b.set_eligibility(node, eligibility, drain, by))
    }

    /// Repeats an order that a registry has forgotten which was wiped or went back to an older state. Changes nothing, and
    /// gives `false`, when the node is not known or has an order of this number or a higher one.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn restore_order(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        generation: u64,
    ) -> Result<bool, RegistryError> {
        both!(self, b => b.restore_order(node, eligibility, drain, generation))
    }

    /// A page of spawns, newest first.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn spawns(&self, filter: &SpawnFilter) -> Result<SpawnPage, RegistryError> {
        both!(self, b => b.spawns(filter))
    }

    /// One spawn with its events.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn spawn(&self, spawn: SpawnId) -> Result<Option<SpawnRecord>, RegistryError> {
        both!(self, b => b.spawn(spawn))
    }

    /// One spawn with its events, and where its node's agent is reached.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn locate(&self, spawn: SpawnId) -> Result<Option<Located>, RegistryError> {
        both!(self, b => b.locate(spawn))
    }

    /// The spawns of these nodes that have not ended, without their histories, in no order. Costs as much as there are; ask
    /// for a bounded number of nodes at a time.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn living(&self, nodes: &[NodeId]) -> Result<Vec<SpawnRecord>, RegistryError> {
        both!(self, b => b.living(nodes))
    }

    /// Claims an idempotency key for a request with this fingerprint. Repeating it as the same claimant renews the claim.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn claim(
        &self,
        key: &IdempotencyKey,
        fingerprint: Uuid,
        claimant: Uuid,
    ) -> Result<Claim, RegistryError> {
        both!(self, b => b.claim(key, fingerprint, claimant))
    }

    /// Ends a claim with its answer, which later claims of the key get for `keep`. Without an answer the key is free
    /// again. `false` when the claim was somebody else's by now: their answer counts.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn settle(
        &self,
        key: &IdempotencyKey,
        claimant: Uuid,
        answer: Option<(&str, Duration)>,
    ) -> Result<bool, RegistryError> {
        both!(self, b => b.settle(key, claimant, answer))
    }

    /// The position of a follower that wants only what happens from now on.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn position(&self) -> Result<Position, RegistryError> {
        both!(self, b => b.position())
    }

    /// What happened since `after`; when nothing has, waits for it up to `wait` (at most
    /// [`crate::ask::LONGEST_FOLLOW`]).
    ///
    /// # Errors
    /// The registry is away.
    pub async fn follow(&self, after: Position, wait: Duration) -> Result<Follow, RegistryError> {
        match &self.0 {
            Backend::Embedded(backend) => Ok(backend.follow(after, wait).await),
            Backend::Redis(backend) => backend.follow(after, wait).await,
        }
    }

    /// Waits until those who wait should ask again, up to `wait`; the last nudge. Like [`Self::follow`] for whoever does
    /// not care for the events, at a fraction of its cost.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn nudged(&self, after: u64, wait: Duration) -> Result<u64, RegistryError> {
        match &self.0 {
            Backend::Embedded(backend) => Ok(backend.nudged(after, wait).await),
            Backend::Redis(backend) => backend.nudged(after, wait).await,
        }
    }
}
