//! What HTTP handlers have at hand. This is the one place below start-up that knows the whole front door: handlers pass on to other
//! modules only what these need.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use registry::{RegistryError, Waiting};

use super::coalesced::Coalesced;
use super::error::ApiError;
use crate::agent_client::Agents;
use crate::callers::{Authenticator, Callers, OwnerNames};
use crate::live;
use crate::metrics::Metrics;
use crate::operations::Operations;
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::snapshot::Snapshot;
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
    /// The line.
    pub(super) waiting: Coalesced<Result<Arc<Vec<Waiting>>, ApiError>>,
    /// Whether the registry takes writes.
    pub(super) registry_check: Coalesced<Result<(), RegistryError>>,
}

/// From the beginning of one assessment of all nodes to that of the next: callers that ask all the time keep Redis busy for a fifth of the
/// time at the most.
const MAX_ASSESSMENT_PAUSE: Duration = Duration::from_secs(2);

impl Default for Answers {
    fn default() -> Self {
        Self {
            nodes: Coalesced::default(),
            assessed: Coalesced::paced(MAX_ASSESSMENT_PAUSE),
            remembered: Coalesced::default(),
            waiting: Coalesced::default(),
            registry_check: Coalesced::default(),
        }
    }
}
