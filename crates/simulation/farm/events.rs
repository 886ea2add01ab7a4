//! The registry's own stream of events, read where it is made: what subscribers are held against, and false alarms.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Event, EventKind};
use registry::Position;

use crate::farm::Farm;
use crate::farm::NODES;
use crate::registry_way::REGISTRY;

/// A node that is silent for so long is down; with as much again for what was under way.
const FALSE_ALARM: Duration = Duration::from_secs(16);

/// The events that the registry has, by their numbers, and whether each is of a spawn.
#[derive(Debug, Default)]
pub(crate) struct Events {
    known: Mutex<BTreeMap<u64, bool>>,
}

impl Events {
    fn known(&self) -> MutexGuard<'_, BTreeMap<u64, bool>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Follows the registry, whatever becomes of it.
pub(crate) async fn watch(farm: Arc<Farm>) {
    let mut position = Position::default();
    loop {
        let Ok(news) = farm.registry.follow(position, Duration::from_secs(30)).await else { return };
        if news.gap {
            // It went back or lost everything: read anew from its beginning.
            farm.steps.note(format_args!("the registry is another one"));
            farm.events.known().clear();
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
        let calm =
            NODES.iter().find(|host| **host == node).map(|host| farm.trouble.calm_for(&[host, REGISTRY]));
        if calm.is_some_and(|calm| calm > FALSE_ALARM) {
            farm.steps.violate(&format!(
                "false alarm: {} of {node} {spawn}, which was well for {calm:?}",
                event.kind
            ));
        }
    }
}
