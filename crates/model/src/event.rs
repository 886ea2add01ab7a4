//! What happened, in the order in which the registry committed it.
//!
//! The registry alone makes events. A spawn's record keeps its first hundred; the stream of the farm keeps the newest, see
//! [`Timing::events_count`](crate::Timing::events_count). `docs/user/live-feed.md` describes them for subscribers.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::id::{NodeId, SpawnId};
use crate::time::Timestamp;
use crate::words::words;

/// The kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum EventKind {
    /// A node's heartbeats arrive (again).
    #[serde(rename = "node.up")]
    NodeUp,
    /// A node's heartbeats are late.
    #[serde(rename = "node.stale")]
    NodeStale,
    /// A node has been silent for too long; its spawns are lost.
    #[serde(rename = "node.down")]
    NodeDown,
    /// An operator closed a node to new spawns.
    #[serde(rename = "node.cordoned")]
    NodeCordoned,
    /// An operator opened a node again.
    #[serde(rename = "node.uncordoned")]
    NodeUncordoned,
    /// An operator asked for a node to be emptied.
    #[serde(rename = "node.draining")]
    NodeDraining,
    /// A draining node is empty.
    #[serde(rename = "node.drained")]
    NodeDrained,
    /// What a node offers has changed.
    #[serde(rename = "node.capacity")]
    NodeCapacity,
    /// Starts fail on a node.
    #[serde(rename = "node.failing")]
    NodeFailing,
    /// Starts succeed again on a node that was failing.
    #[serde(rename = "node.recovered")]
    NodeRecovered,
    /// A node is not known any more: an operator had it forgotten, or it was down for long.
    #[serde(rename = "node.forgotten")]
    NodeForgotten,
    /// An agent admitted a spawn.
    #[serde(rename = "spawn.launching")]
    SpawnLaunching,
    /// A spawn can be connected to.
    #[serde(rename = "spawn.ready")]
    SpawnReady,
    /// A viewer has connected to a spawn.
    #[serde(rename = "spawn.connected")]
    SpawnConnected,
    /// A spawn reported that it is alive.
    #[serde(rename = "spawn.ping")]
    SpawnPing,
    /// A spawn has gone silent.
    #[serde(rename = "spawn.suspect")]
    SpawnSuspect,
    /// A spawn's server reported that its viewer has left.
    #[serde(rename = "spawn.disconnected")]
    SpawnDisconnected,
    /// A spawn was asked to end.
    #[serde(rename = "spawn.stopping")]
    SpawnStopping,
    /// A spawn has ended.
    #[serde(rename = "spawn.exited")]
    SpawnExited,
    /// A spawn's node went away.
    #[serde(rename = "spawn.lost")]
    SpawnLost,
}
words!(EventKind {
    NodeUp = "node.up",
    NodeStale = "node.stale",
    NodeDown = "node.down",
    NodeCordoned = "node.cordoned",
    NodeUncordoned = "node.uncordoned",
    NodeDraining = "node.draining",
    NodeDrained = "node.drained",
    NodeCapacity = "node.capacity",
    NodeFailing = "node.failing",
    NodeRecovered = "node.recovered",
    NodeForgotten = "node.forgotten",
    SpawnLaunching = "spawn.launching",
    SpawnReady = "spawn.ready",
    SpawnConnected = "spawn.connected",
    SpawnPing = "spawn.ping",
    SpawnSuspect = "spawn.suspect",
    SpawnDisconnected = "spawn.disconnected",
    SpawnStopping = "spawn.stopping",
    SpawnExited = "spawn.exited",
    SpawnLost = "spawn.lost",
});

/// One thing that happened.
///
/// `seq` rises with every event of a farm and is assigned when the event is committed. It fits a JSON number, and goes on
/// rising after a wipe of the registry, because it starts from the registry's clock in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Place in the order of all events.
    pub seq: u64,
    /// When it happened, by the registry's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The kind of event, which decides what `data` has.
    pub kind: EventKind,
    /// The node it happened to or on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeId>,
    /// The spawn it happened to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub spawn: Option<SpawnId>,
    /// Further fields, by kind: `exit` with `spawn.exited`, `endpoint` with `spawn.ready`, and so on.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub data: Map<String, Value>,
}

impl Event {
    /// A field beyond those that all events have; `None` when it is absent or not of this type.
    #[must_use]
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.data.get(name)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::SpawnState;

    #[test]
    fn a_state_and_its_event_lead_to_each_other() {
        for state in SpawnState::ALL {
            assert_eq!(EventKind::of_state(*state).state(), Some(*state));
        }
        assert_eq!((EventKind::SpawnPing.state(), EventKind::NodeUp.state()), (None, None));
    }
}
