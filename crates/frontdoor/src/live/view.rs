//! The farm as it was right after one event: what snapshots are made from. Applying the next event gives the next view.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::api::{DrainProgress, Node, Spawn};
use model::{
    Availability, Drain, Eligibility, Event, EventKind, NodeId, RendererType, SpawnId, SpawnState, Timestamp,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::{Snapshot, Topic, is_of_spawns, pings};

/// See the module's documentation. What a node uses, and how busy it is, is no event: that much is as of the last look.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The last event applied.
    pub(crate) seq: u64,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    /// Those that have not ended.
    spawns: BTreeMap<SpawnId, Arc<Spawn>>,
}

impl View {
    /// As these were read, at whatever moment between two events; those after the first must be applied.
    pub(crate) fn new(seq: u64, nodes: Vec<Node>, spawns: Vec<Spawn>) -> Self {
        Self {
            seq,
            nodes: nodes.into_iter().map(|node| (node.id.clone(), Arc::new(node))).collect(),
            spawns: spawns.into_iter().map(|spawn| (spawn.id, Arc::new(spawn))).collect(),
        }
    }

    /// What a subscription begins with.
    pub(crate) fn snapshot(&self, topic: &Topic) -> Snapshot {
        match topic {
            Topic::Nodes => Snapshot::Nodes(self.nodes.values().cloned().collect()),
            // Ids sort by when they were minted.
            Topic::Spawns => Snapshot::Spawns(self.spawns.values().rev().cloned().collect()),
            Topic::Node(node) => Snapshot::Node(self.nodes.get(node).cloned()),
            Topic::Spawn(spawn) => Snapshot::Spawn(self.spawns.get(spawn).cloned()),
        }
    }

    /// The nodes that are up.
    pub(crate) fn up(&self) -> Vec<NodeId> {
        let up = self.nodes.values().filter(|node| node.availability == Availability::Up);
        up.map(|node| node.id.clone()).collect()
    }

    /// The node that has to be read before this event can be applied: an event does not say what a node offers.
    pub(crate) fn lacks<'e>(&self, event: &'e Event) -> Option<&'e NodeId> {
        let node = event.node.as_ref().filter(|_| !is_of_spawns(event.kind))?;
        (event.kind == EventKind::NodeCapacity || !self.nodes.contains_key(node)).then_some(node)
    }

    /// Applies the next event, with the node that it needs.
    pub(crate) fn apply(&mut self, event: &Event, read: Option<Node>) {
        self.seq = event.seq;
        if let Some(node) = read {
            // What events tell of a node that is known is not taken from what was read: that may be of later.
            let node = match self.nodes.get(&node.id) {
                Some(old) => as_told(old, node),
                None => node,
            };
            self.nodes.insert(node.id.clone(), Arc::new(node));
        }
        if is_of_spawns(event.kind) {
            self.apply_to_spawns(event);
        } else if let Some(node) = event.node.as_ref().and_then(|id| self.nodes.get_mut(id)) {
            apply_to_node(Arc::make_mut(node), event);
        }
    }

    fn apply_to_spawns(&mut self, event: &Event) {
        let state = match event.kind {
            EventKind::SpawnPing => {
                for (id, at) in pings(event) {
                    if let Some(spawn) = self.spawns.get_mut(&id) {
                        Arc::make_mut(spawn).last_ping_at = Some(at);
                    }
                }
                return;
            }
            EventKind::SpawnExited => {
                event.spawn.map(|id| self.spawns.remove(&id));
                return;
            }
            EventKind::SpawnLaunching => SpawnState::Launching,
            EventKind::SpawnReady => SpawnState::Ready,
            EventKind::SpawnSuspect => SpawnState::Suspect,
            EventKind::SpawnDisconnected => SpawnState::Disconnected,
            EventKind::SpawnStopping => SpawnState::Stopping,
            _ => SpawnState::Lost,
        };
        let Some(id) = event.spawn else { return };
        if !self.spawns.contains_key(&id) {
            let Some(spawn) = self.introduced(id, event) else { return };
            self.spawns.insert(id, Arc::new(spawn));
        }
        if let Some(spawn) = self.spawns.get_mut(&id) {
            let spawn = Arc::make_mut(spawn);
            spawn.state = state;
            if state == SpawnState::Ready {
                spawn.ready_at = spawn.ready_at.or(Some(event.at));
            }
        }
    }

    /// The record that a spawn's first event makes.
    fn introduced(&self, id: SpawnId, event: &Event) -> Option<Spawn> {
        let node = event.node.clone()?;
        let pool = self.nodes.get(&node).map_or_else(|| "default".to_owned(), |node| node.pool.clone());
        Some(Spawn {
            id,
            node,
            endpoint: said(event, "endpoint")?,
            renderer_type: said::<RendererType>(event, "rendererType")?,
            state: SpawnState::Launching,
            exit: None,
            started_at: said(event, "startedAt").unwrap_or(event.at),
            ready_at: said::<Timestamp>(event, "readyAt"),
            last_ping_at: None,
            ended_at: None,
            pool,
            labels: said(event, "labels").unwrap_or_default(),
            gpu: said(event, "gpu"),
            events: None,
        })
    }

    /// Takes in what is no event: how busy nodes are, and which of those that are down have been forgotten. Sorted by name.
    pub(crate) fn refresh(&mut self, read: &[Node]) {
        let known = |id: &NodeId| read.binary_search_by(|node| node.id.cmp(id)).ok();
        self.nodes.retain(|id, node| node.availability != Availability::Down || known(id).is_some());
        for (id, node) in &mut self.nodes {
            if let Some(at) = known(id) {
                *node = Arc::new(as_told(node, read[at].clone()));
            }
        }
    }
}

/// A node as it was read, but for what events tell of it.
fn as_told(told: &Node, read: Node) -> Node {
    let remaining = read.slots.used;
    let drain = told.drain.clone().map(|drain| DrainProgress { remaining, ..drain });
    Node { eligibility: told.eligibility, availability: told.availability, drain, ..read }
}

/// What an event says beyond its kind.
fn said<T: DeserializeOwned>(event: &Event, field: &str) -> Option<T> {
    T::deserialize(event.data.get(field)?).ok()
}

fn apply_to_node(node: &mut Node, event: &Event) {
    match event.kind {
        EventKind::NodeUp => node.availability = Availability::Up,
        EventKind::NodeStale => node.availability = Availability::Stale,
        EventKind::NodeDown => node.availability = Availability::Down,
        EventKind::NodeCordoned => (node.eligibility, node.drain) = (Eligibility::Cordoned, None),
        EventKind::NodeUncordoned => (node.eligibility, node.drain) = (Eligibility::Eligible, None),
        EventKind::NodeDraining => {
            node.eligibility = Eligibility::Draining;
            let drain = serde_json::from_value::<Drain>(Value::Object(event.data.clone())).ok();
            node.drain = drain.map(|drain| DrainProgress {
                deadline: drain.deadline,
                remaining: node.slots.used,
                reason: drain.reason,
                by: drain.by,
                started_at: drain.started_at,
            });
        }
        EventKind::NodeDrained => {
            if let Some(drain) = &mut node.drain {
                drain.remaining = 0;
            }
        }
        // What it offers was read; the rest are events of spawns.
        _ => {}
    }
}
