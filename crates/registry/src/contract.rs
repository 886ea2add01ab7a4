//! The contract that both backends meet, as one handle.
//!
//! A new call is added here, to both backends, and to `tests/contract`, which runs every test against each of them.

use std::path::Path;
use std::time::Duration;

use model::{
    Drain, Eligibility, FarmCause, NodeId, NodeRecord, Owner, SpawnId, SpawnRecord, TicketId, Timestamp,
    Timing,
};
use uuid::Uuid;

use crate::ask::{
    Claim, Forgotten, IdempotencyKey, Located, Outcomes, Position, Reserve, Reserved, Restored, SpawnFilter,
    SpawnPage,
};
use crate::distant::Distant;
use crate::embedded::Embedded;
use crate::error::{OpenError, RegistryError};
use crate::permits::Permit;
use crate::redis::Redis;
use crate::verdict::{Assessment, Forecast};
use crate::waiting::{Pending, WaitingRequest};

/// A handle to the registry; cloning is cheap.
///
/// Every call is one atomic step and is bounded in time. See [the crate](crate) for an example.
///
/// # Errors
///
/// Every call fails alike, so the methods say only what else there is to know: [`RegistryError::Away`] when the server
/// cannot be reached, refuses, or does not answer in time; [`RegistryError::Unexpected`] when its answer makes no sense to
/// this version. In both cases the call may have happened. The embedded backend never fails.
#[derive(Debug, Clone)]
pub struct Registry(Backend);

#[derive(Debug, Clone)]
enum Backend {
    Embedded(Embedded),
    Distant(Distant),
    Redis(Redis),
}

// Calls the method of the same name on whichever backend there is. Those of `Embedded` are synchronous and cannot fail.
macro_rules! both {
    ($self:ident, $backend:ident => $_backend:ident.$call:ident($($argument:expr),*)) => {
        match &$self.0 {
            Backend::Embedded($backend) => Ok($backend.$call($($argument),*)),
            Backend::Distant(distant) => {
                distant.call(stringify!($call), |$backend| $backend.$call($($argument),*)).await
            }
            Backend::Redis($backend) => $backend.$call($($argument),*).await,
        }
    };
}

mod deliveries;
mod following;
mod kept;
mod lists;
mod reports;
mod simulated;

impl Registry {
    /// A registry that lives in this process and ends with it. Clones share it.
    #[must_use]
    pub fn embedded(timing: Timing) -> Self {
        Self(Backend::Embedded(Embedded::new(timing)))
    }

    /// Opens `embedded` or a Redis URL (`docs/operator/redis.md` has the grammar). Connects with the first call: the server
    /// need not be there yet, and calls fail until it is. `farm` is the prefix of all keys, so several farms can share a
    /// server.
    ///
    /// # Errors
    /// The URL or the farm's name is wrong.
    pub fn open(url: &str, farm: &str, timing: Timing) -> Result<Self, OpenError> {
        Self::open_with(url, None, farm, timing)
    }

    /// [`Self::open`] with the server's password in a file. That file, and the files of certificates that the URL names,
    /// are read again for every new connection: a password or certificate may change while the process runs.
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

    /// How the last call failed; `None` when it succeeded.
    #[must_use]
    pub fn trouble(&self) -> Option<RegistryError> {
        match &self.0 {
            Backend::Embedded(_) => None,
            Backend::Distant(distant) => distant.trouble(),
            Backend::Redis(backend) => backend.trouble(),
        }
    }

    /// What an operator should change in the server's settings, as of the last connection to it.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match &self.0 {
            Backend::Embedded(_) | Backend::Distant(_) => Vec::new(),
            Backend::Redis(backend) => backend.warnings(),
        }
    }

    /// The word for this backend in probes and logs: `embedded` or `redis`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        match &self.0 {
            Backend::Embedded(_) | Backend::Distant(_) => "embedded",
            Backend::Redis(_) => "redis",
        }
    }

    /// The intervals it works with.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        match &self.0 {
            Backend::Embedded(backend) => backend.timing(),
            Backend::Distant(distant) => distant.registry.timing(),
            Backend::Redis(backend) => backend.timing(),
        }
    }

    /// Checks that the registry takes writes, which is what a farm needs. A server that refuses them (a replica, one that
    /// is full, has too few replicas or cannot save) still answers [`Self::ping`].
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses writes.
    pub async fn check(&self) -> Result<(), RegistryError> {
        both!(self, b => b.check())
    }

    /// Records the outcomes of one request's starts, which change the health of nodes. What becomes of servers after they were
    /// ready, the registry learns from their agents' reports. Repeating a call counts the outcomes twice.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn learn(&self, outcomes: &Outcomes) -> Result<(), RegistryError> {
        both!(self, b => b.learn(outcomes))
    }

    /// The cause for which starts fail on every node alike, if several requests in a row have failed so.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn farm_cause(&self) -> Result<Option<FarmCause>, RegistryError> {
        both!(self, b => b.farm_cause())
    }

    /// The registry's identity. A changed one means that the registry was wiped, replaced, or set back to an older state,
    /// and that everything read before is void. Random; made with the first write.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn incarnation(&self) -> Result<Uuid, RegistryError> {
        both!(self, b => b.incarnation())
    }

    /// Checks that the registry can be reached; [`Self::check`] also checks that it takes writes.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        both!(self, b => b.ping())
    }

    /// Takes a slot on the best node, or says why there is none. The slot is held for [`Timing::reservation`].
    ///
    /// # Errors
    /// The registry is away. A slot may have been taken: call [`Self::release_by_id`], or it comes back when the reservation expires.
    pub async fn reserve(&self, ask: &Reserve) -> Result<Reserved, RegistryError> {
        both!(self, b => b.reserve(ask))
    }

    /// What [`Self::reserve`] would come to, for a request without a place in line: the choice of a reserve, without the slot. Nothing
    /// is taken or given up; what time alone changes (late nodes, places that lapsed) is noted, as in every call.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn forecast(&self, ask: &Reserve) -> Result<Forecast, RegistryError> {
        both!(self, b => b.forecast(ask))
    }

    /// How many slots are reserved and how many requests wait in line, over the whole farm. Costs the same however many there are.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn pending(&self) -> Result<Pending, RegistryError> {
        both!(self, b => b.pending())
    }

    /// What each node has for one more spawn, by name. With [`Self::forecast`] it says why a node would be chosen or not, see
    /// [`crate::verdict`]. The cost grows with the number of nodes; Redis reads a bounded number of them in each step.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn assess(&self) -> Result<Vec<Assessment>, RegistryError> {
        both!(self, b => b.assess())
    }

    /// Releases a reservation for which nothing was started. Idempotent. Does nothing once the agent has reported the spawn.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn release(&self, node: &NodeId, spawn: SpawnId) -> Result<(), RegistryError> {
        both!(self, b => b.release(node, spawn))
    }

    /// Releases the reservation of `spawn` on any node. Use it when the outcome of [`Self::reserve`] is unknown.
    /// Idempotent. Does nothing once the agent has reported the spawn. Looks at a bounded number of the newest
    /// reservations; an older one expires.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn release_by_id(&self, spawn: SpawnId) -> Result<(), RegistryError> {
        both!(self, b => b.release_by_id(spawn))
    }

    /// Gives up a spawn that may have been started. The agent gets the order to end it, or never to start it, with its next
    /// heartbeat. The slot stays taken until the agent has forgotten the spawn, or the reservation expires. Idempotent.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn abandon(&self, node: &NodeId, spawn: SpawnId) -> Result<(), RegistryError> {
        both!(self, b => b.abandon(node, spawn))
    }

    /// Renews places in line. A place that is not renewed within [`Timing::place`] lapses.
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

    /// The line, in its order: at most [`crate::MAX_LISTED`] places from its front. A long line is read part by part, so places that come and go
    /// meanwhile may be missing.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn waiting(&self) -> Result<Vec<WaitingRequest>, RegistryError> {
        both!(self, b => b.waiting())
    }

    /// Whether this ticket has a place in line that has not been dropped.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn is_waiting(&self, ticket: TicketId) -> Result<bool, RegistryError> {
        both!(self, b => b.is_waiting(ticket))
    }

    /// Asks whether the owner may start one more spawn now, and counts the start if so. `per_minute` starts a minute are
    /// granted, in any bursts. Not idempotent.
    ///
    /// # Errors
    /// The registry is away. The start may have been counted.
    pub async fn permit(&self, owner: &Owner, per_minute: u32) -> Result<Permit, RegistryError> {
        both!(self, b => b.permit(owner, per_minute))
    }

    /// Does what is due by time: expires reservations and places, calls nodes stale and down and their spawns lost, forgets old
    /// records. Front doors call it about once a second. Any number may do so at once; each call does a bounded amount, and returns
    /// whether more is due already.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn sweep(&self) -> Result<bool, RegistryError> {
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

    /// The present by the registry's clock. Deadlines are compared with no other clock.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn now(&self) -> Result<Timestamp, RegistryError> {
        both!(self, b => b.now())
    }

    /// Records an operator's order and returns its number; `None` when there is no such node. `drain` counts only with
    /// [`Eligibility::Draining`]. `by` names the operator, for the event.
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

    /// Repeats an order to a registry that may have lost it, because it was wiped or set back to an older state. Changes nothing
    /// when the node is not known, has an order with this number or a higher one, or was forgotten since.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn restore_order(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        generation: u64,
    ) -> Result<Restored, RegistryError> {
        both!(self, b => b.restore_order(node, eligibility, drain, generation))
    }

    /// Removes a node that is not up, with its slots; its spawns end with the reason [`model::ExitReason::NodeLost`]. Should the node
    /// report again, it registers as a new one, and what it still runs comes back. `by` names the operator, for the event.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn forget(&self, node: &NodeId, by: Option<&str>) -> Result<Forgotten, RegistryError> {
        both!(self, b => b.forget(node, by))
    }

    /// A page of spawns, newest first.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn spawns(&self, filter: &SpawnFilter) -> Result<SpawnPage, RegistryError> {
        both!(self, b => b.spawns(filter))
    }

    /// One spawn with its events; `None` when there is no record of it (any more).
    ///
    /// # Errors
    /// The registry is away.
    pub async fn spawn(&self, spawn: SpawnId) -> Result<Option<SpawnRecord>, RegistryError> {
        both!(self, b => b.spawn(spawn))
    }

    /// One spawn with its events, and the address of its node's agent, in one step.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn locate(&self, spawn: SpawnId) -> Result<Option<Located>, RegistryError> {
        both!(self, b => b.locate(spawn))
    }

    /// Claims an idempotency key for a request with this fingerprint, for [`Timing::claim`]. Repeating the call as the same
    /// claimant renews the claim.
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

    /// Settles a claim with its answer, which later claims of the key get for the given time. Without an answer the key is
    /// free again. Returns `false` when another claimant has taken the key over: its answer counts. Idempotent for the
    /// claimant.
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

    /// Waits for up to `wait` for a wake-up newer than `after`, and returns the number of the last one. A wake-up means
    /// that callers in line, or those that wait for an idempotent answer, should ask again. Costs a fraction of
    /// [`Self::follow`].
    ///
    /// # Errors
    /// The registry is away.
    pub async fn wait_for_wakeup(&self, after: u64, wait: Duration) -> Result<u64, RegistryError> {
        match &self.0 {
            Backend::Embedded(backend) => Ok(backend.wait_for_wakeup(after, wait).await),
            Backend::Distant(distant) => {
                distant.wait("wait_for_wakeup", async |b| b.wait_for_wakeup(after, wait).await).await
            }
            Backend::Redis(backend) => backend.wait_for_wakeup(after, wait).await,
        }
    }
}
