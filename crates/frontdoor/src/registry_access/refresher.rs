//! Keeps the snapshot up to date.

use std::sync::Arc;
use std::time::Duration;

use model::Availability;
use model::api::Node;
use registry::RegistryError;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::snapshot::Refresh;
use crate::registry_access::cleanup::jittered;
use crate::start::door::Door;

/// Time between two refreshes; more where one takes long, so that they never cost more than a twentieth of the time.
const EVERY: Duration = Duration::from_secs(1);
/// While there is no farm-wide cause, the registry is asked for one this often.
const ASK_CAUSE: Duration = Duration::from_secs(3);

/// Runs for ever.
pub(crate) async fn keep(door: Arc<Door>) {
    let mut asked = None;
    let mut incarnation = None;
    loop {
        let began = Instant::now();
        match refresh(&door, &mut asked, &mut incarnation).await {
            Ok(count) => {
                // An empty snapshot is of no use: the first node is seen soon.
                let pause =
                    if count == 0 { jittered(EVERY / 10) } else { jittered(EVERY).max(began.elapsed() * 20) };
                sleep(pause).await;
            }
            Err(RegistryError::Away(_)) => {
                door.registry.back().await;
                sleep(jittered(EVERY / 10)).await;
            }
            Err(error @ RegistryError::Unexpected { .. }) => {
                debug!(%error, "snapshot not refreshed");
                sleep(jittered(EVERY)).await;
            }
        }
    }
}

/// How many nodes the snapshot has now. A registry that refuses writes shows nodes that look dead because their heartbeats
/// are refused, so it is asked only when it takes a write.
async fn refresh(
    door: &Door,
    asked: &mut Option<Instant>,
    incarnation: &mut Option<Uuid>,
) -> Result<usize, RegistryError> {
    door.registry.check().await?;
    let now = door.registry.incarnation().await?;
    if incarnation.replace(now).is_some_and(|before| before != now) {
        warn!("the registry was wiped or replaced: what it lacks comes from the last snapshot of the farm");
        door.registry.wiped();
        door.snapshot.distrust();
    }
    let nodes = door.registry.nodes().await?;
    for (node, order) in door.orders.observe(&nodes, door.registry.timing().forget) {
        let restored =
            door.registry.restore_order(&node, order.eligibility, order.drain.as_ref(), order.generation);
        if restored.await? {
            let (generation, eligibility) = (order.generation, order.eligibility);
            info!(node.id = %node, generation, %eligibility, "order repeated that the registry had forgotten");
            door.orders.restored(&node, generation);
        }
    }
    door.live.feed.refresh(|| nodes.iter().cloned().map(Node::from).collect());
    let count = match door.snapshot.refresh(nodes, door.registry.timing().down) {
        Refresh::Taken(count) => count,
        Refresh::Doubted => {
            debug!("most of the farm is gone at once: the last snapshot stays for now");
            door.snapshot.farm().nodes.len()
        }
    };
    door.metrics.snapshot(count);
    let has_cause = door.snapshot.farm_cause().is_some();
    if has_cause || asked.is_none_or(|asked| asked.elapsed() >= ASK_CAUSE) {
        *asked = Some(Instant::now());
        door.snapshot.set_farm_cause(door.registry.farm_cause().await?);
    }
    let farm = door.snapshot.farm();
    let up = farm.nodes.iter().filter(|seen| seen.record.availability == Availability::Up);
    door.metrics.health(up.map(|seen| seen.record.health.state), farm.cause.is_some());
    drop(farm);
    Ok(count)
}
