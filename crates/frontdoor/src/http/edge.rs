//! What HTTP handlers have at hand. This is the one place below start-up that knows the whole front door: handlers pass on to other
//! modules only what these need.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Extensions;
use bytes::Bytes;
use model::{Minute, Timestamp};
use registry::{RegistryError, WaitingRequest};
use tokio::time::Instant;

use super::authorization::Who;
use super::coalesced::Coalesced;
use super::error::ApiError;
use super::extract;
use super::list_turns::ListTurns;
use crate::agent_client::Agents;
use crate::callers::{Authenticator, Callers, OwnerNames};
use crate::live;
use crate::metrics::Metrics;
use crate::operations::{Given, Operations};
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::snapshot::Snapshot;
use crate::registry_access::tally::Tally;
use crate::settings::Config;
use crate::spawning::assessed::Assessed;
use crate::spawning::idempotency::Idempotency;
use crate::spawning::positions::Positions;
use crate::spawning::rate::SpawnRates;
use crate::spawning::spawner::Spawner;
use crate::stages::Stages;
use crate::viewers::Viewers;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) stages: Stages,
    /// `None`: credentials are not required.
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    pub(crate) callers: Arc<Callers>,
    pub(crate) names: OwnerNames,
    pub(crate) registry: Arc<RegistryClient>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) spawner: Spawner,
    pub(crate) rates: SpawnRates,
    pub(crate) idempotency: Idempotency,
    pub(crate) positions: Arc<Positions>,
    pub(crate) operations: Arc<Operations>,
    pub(crate) viewers: Viewers,
    pub(crate) live: Arc<live::Parts>,
    pub(crate) answers: Answers,
    pub(crate) list_turns: ListTurns,
    pub(crate) tally: Arc<Tally>,
}

impl Edge {
    /// Who gives the order that a request brings, and from where.
    pub(super) fn given(&self, parts: &Extensions) -> Given {
        let owner = Who::of(parts).owner().cloned();
        Given {
            by: owner.as_ref().map(|owner| self.names.shown(owner)),
            owner,
            from: extract::peer(parts),
            request: extract::request_id(parts),
            at: Instant::now(),
        }
    }
}

/// The counts of all minutes that are kept, as of `now` on the registry's clock.
#[derive(Debug)]
pub(super) struct Minutes {
    pub(super) now: Timestamp,
    pub(super) all: Vec<Minute>,
}

/// Answers that are expensive to make: one for all callers that ask at the same time.
#[derive(Debug)]
pub(crate) struct Answers {
    /// All nodes, as JSON.
    pub(super) nodes: Coalesced<Result<Bytes, ApiError>>,
    /// What each node has for a spawn.
    pub(super) assessed: Coalesced<Result<Arc<Assessed>, RegistryError>>,
    /// The same, as the snapshot knows it.
    pub(super) remembered: Coalesced<Option<Arc<Assessed>>>,
    pub(super) waiting: Coalesced<Result<Arc<Vec<WaitingRequest>>, ApiError>>,
    /// The counts of the last day, minute by minute.
    pub(super) minutes: Coalesced<Result<Arc<Minutes>, ApiError>>,
    /// Whether the registry takes writes.
    pub(super) registry_check: Coalesced<Result<(), RegistryError>>,
}

/// From the beginning of one assessment of all nodes to that of the next: callers that ask all the time keep Redis busy for a fifth of the
/// time at the most.
const MAX_ASSESSMENT_PAUSE: Duration = Duration::from_secs(2);

/// The same for counts of minutes: a day of them is 1440 reads, whatever a caller asks for.
const MAX_HISTORY_PAUSE: Duration = Duration::from_secs(1);

impl Default for Answers {
    fn default() -> Self {
        Self {
            nodes: Coalesced::default(),
            assessed: Coalesced::paced(MAX_ASSESSMENT_PAUSE),
            remembered: Coalesced::default(),
            waiting: Coalesced::default(),
            minutes: Coalesced::paced(MAX_HISTORY_PAUSE),
            registry_check: Coalesced::default(),
        }
    }
}
