//! Pings of spawns on their way to subscribers. They are no events: no history has them.
//!
//! A front door whose subscribers hear of pings follows the events with [`Registry::follow_with_pings`](crate::Registry::follow_with_pings),
//! which has agents send pings ([`Orders::pings`](crate::Orders::pings)) and puts them among the events, by their numbers. A bounded number
//! is kept for a moment: what is not read in time is lost, and the next ping follows within an interval.

use std::collections::BTreeSet;
use std::time::Duration;

use model::{Event, EventKind, NodeId, SpawnId, Timestamp};
use serde_json::{Map, Value};

/// How long agents send pings after a follower has read on; longer than one waits.
pub(crate) const WANTED_FOR: Duration = Duration::from_secs(10);
/// Entries that are kept, each with the pings of one node's heartbeat.
pub(crate) const MAX_ENTRIES: usize = 1_000;

/// Whose pings are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedPings {
    /// Those of all nodes.
    All,
    /// Those of these nodes.
    Of(BTreeSet<NodeId>),
}

/// What came with one heartbeat, in the form of an event.
pub(crate) fn event(seq: u64, at: Timestamp, node: NodeId, pings: &[(SpawnId, Timestamp)]) -> Event {
    let pings: Map<String, Value> =
        pings.iter().map(|(spawn, at)| (spawn.to_string(), at.to_string().into())).collect();
    let data = Map::from_iter([("pings".to_owned(), pings.into())]);
    Event { seq, at, kind: EventKind::SpawnPing, node: Some(node), spawn: None, data }
}
