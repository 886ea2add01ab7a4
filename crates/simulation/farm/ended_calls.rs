//! Calls that ended without a spawn: soon afterwards none of theirs lives, and none starts. What a cut between a front door and an agent keeps from
//! arriving the registry has carried instead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{NodeId, SpawnId};
use tokio::time::{Instant, sleep_until};

use crate::callers::CALLERS;
use crate::farm::{Farm, NODES};
use crate::network::Host;
use crate::registry_way::REGISTRY;
use crate::trouble::Part;

/// A call that was not answered with a spawn has left none after this time.
const LEFT: Duration = Duration::from_secs(10);
/// A start is reported so much later.
const REPORTED: Duration = Duration::from_secs(2);
/// The tag that names the call in its spawns.
pub(crate) const CALL: &str = "call";

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct EndedCalls {
    ended: Mutex<BTreeMap<String, Ended>>,
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    began: Instant,
    at: Instant,
    door: Host,
}

impl Ended {
    /// Whether all was well since the call began that the promise depends on. The way between front door and agent is not.
    fn binds(self, farm: &Farm) -> bool {
        let mut parts = vec![Part::Network, Part::Registry, Part::Machine(self.door)];
        parts.extend([Part::way(CALLERS, self.door), Part::way(self.door, REGISTRY)]);
        for node in NODES {
            parts.extend([Part::Machine(node), Part::way(node, REGISTRY)]);
        }
        farm.trouble.calm_for(&parts) >= self.began.elapsed()
    }
}

/// The call with this tag began and ended at these moments, without a spawn.
pub(crate) fn ended(farm: &Arc<Farm>, tag: String, (began, at): (Instant, Instant), door: Host) {
    let call = Ended { began, at, door };
    farm.ended_calls.ended.lock().unwrap_or_else(PoisonError::into_inner).insert(tag.clone(), call);
    let farm = Arc::clone(farm);
    tokio::spawn(async move {
        sleep_until(at + LEFT).await;
        if !call.binds(&farm) {
            return;
        }
        let nodes: Vec<NodeId> = NODES.iter().filter_map(|host| host.parse().ok()).collect();
        let living = farm.registry.living(&nodes).await.unwrap_or_default();
        if let Some(left) = living.iter().find(|spawn| spawn.tags.get(CALL) == Some(&tag)) {
            farm.steps.violate(&format!("call {tag} has ended without a spawn, and {} lives", left.id));
        }
    });
}

/// A spawn was started.
pub(crate) async fn started(farm: &Farm, spawn: SpawnId) {
    let Ok(Some(record)) = farm.registry.spawn(spawn).await else { return };
    let Some(tag) = record.tags.get(CALL) else { return };
    let call = farm.ended_calls.ended.lock().unwrap_or_else(PoisonError::into_inner).get(tag).copied();
    if let Some(call) = call
        && call.at.elapsed() > LEFT + REPORTED
        && call.binds(farm)
    {
        farm.steps.violate(&format!("call {tag} ended {:?} ago, and {spawn} starts", call.at.elapsed()));
    }
}
