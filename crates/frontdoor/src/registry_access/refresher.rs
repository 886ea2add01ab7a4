//! One task keeps the snapshot up to date, and repairs what the registry has forgotten of operators' orders.

use std::sync::Arc;
use std::time::Duration;

use model::{NodeRecord, jittered};
use registry::{RegistryError, Restored};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::circuit::RegistryClient;
use super::desired_state::DesiredStates;
use super::snapshot::{Refresh, Snapshot};
use crate::metrics::FarmMetrics;

/// Time between two refreshes; more where one takes long, so that they never cost more than a twentieth of the time.
const EVERY: Duration = Duration::from_secs(1);
/// While there is no farm-wide cause, the registry is asked for one this often, for what is under way, and for how far back its events go.
const ASK_CAUSE: Duration = Duration::from_secs(3);

/// What a refresh reads, and what it brings up to date.
#[derive(Debug)]
pub(crate) struct Refresher {
    pub(crate) registry: Arc<RegistryClient>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) desired_states: Arc<DesiredStates>,
    pub(crate) metrics: FarmMetrics,
}

impl Refresher {
    /// Runs for ever. `publish` gets the nodes of every refresh.
    pub(crate) async fn run(self, publish: impl Fn(&[NodeRecord]) + Send + Sync) {
        let mut asked = None;
        let mut incarnation = None;
        loop {
            let began = Instant::now();
            match self.refresh(&publish, &mut asked, &mut incarnation).await {
                Ok(count) => {
                    // An empty snapshot is of no use: the first node is seen soon.
                    let pause = if count == 0 {
                        jittered(EVERY / 10)
                    } else {
                        jittered(EVERY).max(began.elapsed() * 20)
                    };
                    sleep(pause).await;
                }
                Err(RegistryError::Away(_)) => {
                    self.registry.back().await;
                    sleep(jittered(EVERY / 10)).await;
                }
                Err(error @ RegistryError::Unexpected { .. }) => {
                    debug!(%error, "snapshot not refreshed");
                    sleep(jittered(EVERY)).await;
                }
            }
        }
    }

    /// Returns how many nodes the snapshot has now. A registry that refuses writes shows nodes that look dead because their
    /// heartbeats are refused, so it is read only when it takes a write.
    async fn refresh(
        &self,
        publish: &(impl Fn(&[NodeRecord]) + Sync),
        asked: &mut Option<Instant>,
        incarnation: &mut Option<Uuid>,
    ) -> Result<usize, RegistryError> {
        let Self { registry, snapshot, desired_states, metrics } = self;
        registry.check().await?;
        let now = registry.incarnation().await?;
        if incarnation.replace(now).is_some_and(|before| before != now) {
            warn!(
                "the registry was wiped or replaced: what it lacks comes from the last snapshot of the farm"
            );
            registry.wiped();
            snapshot.distrust();
        }
        registry.is_of(now);
        let nodes = registry.nodes().await?;
        for (node, order) in desired_states.observe(&nodes, registry.timing().forget) {
            let restored =
                registry.restore_order(&node, order.eligibility, order.drain.as_ref(), order.generation);
            match restored.await? {
                Restored::Taken => {
                    let (generation, eligibility) = (order.generation, order.eligibility);
                    info!(node.id = %node, generation, %eligibility, "order repeated that the registry had forgotten");
                    desired_states.restored(&node, generation);
                }
                Restored::NotNeeded => {}
                Restored::Forgotten => desired_states.forget(&node),
            }
        }
        publish(&nodes);
        let count = match snapshot.refresh(nodes, registry.timing().down) {
            Refresh::Taken(count) => count,
            Refresh::Doubted => {
                debug!("most of the farm is gone at once: the last snapshot stays for now");
                snapshot.len()
            }
        };
        metrics.snapshot(count);
        if asked.is_none_or(|asked| asked.elapsed() >= ASK_CAUSE) {
            metrics.events_window(registry.events_window().await?);
        }
        let has_cause = snapshot.farm_cause().is_some();
        if has_cause || asked.is_none_or(|asked| asked.elapsed() >= ASK_CAUSE) {
            *asked = Some(Instant::now());
            snapshot.set_farm_cause(registry.farm_cause().await?);
            metrics.pending(registry.pending().await?);
        }
        snapshot.look(|nodes| metrics.nodes(nodes));
        metrics.cause(snapshot.farm_cause().is_some());
        Ok(count)
    }
}
