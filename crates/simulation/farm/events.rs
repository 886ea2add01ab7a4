//! The registry's own stream of events, read where it is made: what subscribers are held against, and false alarms.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Event, EventKind, SpawnId};
use registry::Position;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::ended_calls;
use crate::farm::{Farm, NODES};
use crate::network::Host;
use crate::registry_way::REGISTRY;
use crate::trouble::Part;

/// A node that is silent for so long is down; with as much again for what was under way.
const FALSE_ALARM: Duration = Duration::from_secs(16);

/// Starts that wait for those who listen.
const MAX_STARTS: usize = 256;

/// The events that the registry has, by their numbers, and whether each is of a spawn.
#[derive(Debug)]
pub(crate) struct Events {
    known: Mutex<BTreeMap<u64, bool>>,
    /// When the registry was last replaced by another one.
    replaced: Mutex<Option<Instant>>,
    starts: broadcast::Sender<SpawnId>,
}

impl Default for Events {
    fn default() -> Self {
        let starts = broadcast::Sender::new(MAX_STARTS);
        Self { known: Mutex::default(), replaced: Mutex::default(), starts }
    }
}

impl Events {
    fn known(&self) -> MutexGuard<'_, BTreeMap<u64, bool>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the registry was last replaced by another one.
    pub(crate) fn replaced(&self) -> Option<Instant> {
        *self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spawns that start from now on.
    pub(crate) fn starts(&self) -> broadcast::Receiver<SpawnId> {
        self.starts.subscribe()
    }

    /// The first event of spawns (or of nodes) after `after` and before `before`.
    pub(crate) fn between(&self, of_spawns: bool, after: u64, before: u64) -> Option<u64> {
        let known = self.known();
        known.range(after + 1..before.max(after + 1)).find(|(_, of)| **of == of_spawns).map(|(seq, _)| *seq)
    }
}

fn is_of_spawns(event: &Event) -> bool {
    event.spawn.is_some()
}

/// All that must be well for a host's words to reach the registry, but for what the registry holds.
pub(crate) fn way_to_registry(host: Host) -> [Part; 3] {
    [Part::Machine(host), Part::way(host, REGISTRY), Part::Network]
}

/// Follows the registry, whatever becomes of it.
pub(crate) async fn watch(farm: Arc<Farm>) {
    let mut position = Position::default();
    loop {
        let Ok(news) = farm.registry.follow(position, Duration::from_secs(30)).await else { return };
        if news.gap {
            // It went back or lost everything: read anew from its beginning.
            farm.steps.note(format_args!("the registry is another one"));
            farm.events.known().clear();
            *farm.events.replaced.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            position = Position { seq: 0, seen: 0, ..news.position };
            let Ok(again) = farm.registry.follow(position, Duration::ZERO).await else { return };
            for event in &again.events {
                farm.events.known().insert(event.seq, is_of_spawns(event));
            }
            position = again.position;
            continue;
        }
        for event in &news.events {
            happened(&farm, event);
            if event.kind == EventKind::SpawnLaunching
                && let Some(spawn) = event.spawn
            {
                farm.events.starts.send(spawn).ok();
                ended_calls::started(&farm, spawn).await;
            }
        }
        position = news.position;
    }
}

fn happened(farm: &Arc<Farm>, event: &Event) {
    let node = event.node.as_ref().map(ToString::to_string).unwrap_or_default();
    let spawn = event.spawn.map(|id| id.to_string()).unwrap_or_default();
    farm.steps.note(format_args!("event {} {node} {spawn}", event.kind));
    farm.events.known().insert(event.seq, is_of_spawns(event));
    // Also a registry that was away, or is as it was before, must not take its own silence for theirs.
    if matches!(event.kind, EventKind::NodeDown | EventKind::SpawnLost) {
        let calm = NODES
            .iter()
            .find(|host| **host == node)
            .map(|host| farm.trouble.calm_for(&way_to_registry(host)));
        if calm.is_some_and(|calm| calm > FALSE_ALARM) {
            farm.steps.violate(&format!(
                "false alarm: {} of {node} {spawn}, which was well for {calm:?}",
                event.kind
            ));
        }
    }
}
