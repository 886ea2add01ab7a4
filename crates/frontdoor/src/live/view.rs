//! The farm as it was right after one event: what snapshots are made from. Applying the next event gives the next view.
//!
//! It has all nodes, and the spawns of those nodes that are covered. To cover a node its spawns are read while events happen, and made
//! exact by applying the events since the reading began.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use model::api::{DrainProgress, Node, Spawn};
use model::{
    Availability, Drain, Eligibility, Event, EventKind, NodeId, Owner, RendererType, SpawnId, SpawnState,
    Timestamp, ViewerPresence,
};
use serde_json::Value;

use super::followed::Followed;
use super::protocol::{Topic, TopicSnapshot, is_of_spawns, pings};
use super::ring::Subject;

/// See the module's documentation. The load and the used slots of a node are no events: they are as of the last refresh.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The last event applied.
    pub(crate) seq: u64,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    /// Those that have not ended, of covered nodes; and those that are watched one by one.
    spawns: BTreeMap<SpawnId, Arc<Followed>>,
    /// Nodes of which all spawns are here.
    covered: HashSet<NodeId>,
    /// Nodes whose spawns were read, and are exact once this event is here.
    coming: HashMap<NodeId, u64>,
    /// Whether nodes that are met from now on are covered: all their spawns come as events.
    pub(crate) covers_new: bool,
}

/// Whose spawns a subscription needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Need {
    /// No node's.
    Nothing,
    /// This node's.
    Of(NodeId),
    /// Those of all nodes.
    All,
}

/// Whether a subscriber follows the spawn of an event by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    Yes,
    No,
}

impl View {
    /// Made of nodes that were read while events happened; those after `seq` must be applied.
    pub(crate) fn new(seq: u64, nodes: Vec<Node>) -> Self {
        let nodes = nodes.into_iter().map(|node| (node.id.clone(), Arc::new(node))).collect();
        Self { seq, nodes, ..Self::default() }
    }

    /// Takes in the spawns of these nodes, and the events since their reading began. `until`: the last event that they may include.
    pub(crate) fn cover(
        &mut self,
        nodes: &[NodeId],
        spawns: Vec<Followed>,
        until: u64,
        since: &[Arc<Event>],
    ) {
        self.spawns.extend(spawns.into_iter().map(|spawn| (spawn.spawn.id, Arc::new(spawn))));
        self.coming.extend(nodes.iter().map(|node| (node.clone(), until)));
        for event in since.iter().filter(|event| is_of_spawns(event.kind)) {
            if event.node.as_ref().is_some_and(|node| nodes.contains(node)) {
                self.apply_to_spawns(event, Watched::No);
            }
        }
        self.settle();
    }

    /// Notes that all events up to this one are here.
    pub(crate) fn reach(&mut self, seq: u64) {
        self.seq = self.seq.max(seq);
        self.settle();
    }

    /// What was read is exact once the events that it includes are here.
    fn settle(&mut self) {
        let (seq, covered) = (self.seq, &mut self.covered);
        self.coming.retain(|node, until| {
            let is_here = *until <= seq;
            if is_here {
                covered.insert(node.clone());
            }
            !is_here
        });
    }

    /// Whether these spawns are all here.
    pub(crate) fn covers(&self, need: &Need) -> bool {
        match need {
            Need::Nothing => true,
            Need::Of(node) => self.covered.contains(node),
            // Counted first: many may wait for this, and look again with every page that is read.
            Need::All => {
                self.covers_new
                    && self.covered.len() >= self.nodes.len()
                    && self.nodes.keys().all(|node| self.covered.contains(node))
            }
        }
    }

    /// Whether the spawns of this node are here, or were read.
    fn has_spawns_of(&self, node: &NodeId) -> bool {
        self.covered.contains(node) || self.coming.contains_key(node)
    }

    /// The first of these nodes whose spawns were not read yet.
    pub(crate) fn uncovered<'a>(&self, of: impl Iterator<Item = &'a NodeId>, most: usize) -> Vec<NodeId> {
        of.filter(|node| !self.has_spawns_of(node)).take(most).cloned().collect()
    }

    /// The names of all nodes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }

    /// Forgets the spawns of the other nodes, except for those that are watched.
    pub(crate) fn uncover(&mut self, keep: impl Fn(&NodeId) -> bool, is_watched: impl Fn(SpawnId) -> bool) {
        let before = self.covered.len() + self.coming.len();
        self.covered.retain(&keep);
        self.coming.retain(|node, _| keep(node));
        if self.covered.len() + self.coming.len() == before {
            return;
        }
        let (covered, coming) = (&self.covered, &self.coming);
        self.spawns.retain(|id, spawn| {
            let node = &spawn.spawn.node;
            covered.contains(node) || coming.contains_key(node) || is_watched(*id)
        });
    }

    /// What a subscription begins with, of all spawns or those of one owner.
    pub(crate) fn snapshot(&self, topic: &Topic, only: Option<&Owner>) -> TopicSnapshot {
        let visible = |spawn: &&Arc<Followed>| only.is_none() || spawn.owner.as_ref() == only;
        match topic {
            Topic::Nodes => TopicSnapshot::Nodes(self.nodes.values().cloned().collect()),
            // Ids sort by when they were minted.
            Topic::Spawns => {
                TopicSnapshot::Spawns(self.spawns.values().rev().filter(visible).cloned().collect())
            }
            Topic::Narrowed(narrowed) => {
                let takes = |spawn: &&Arc<Followed>| {
                    let Followed { spawn, owner } = &***spawn;
                    narrowed.takes(Some(&spawn.node), owner.as_ref(), &spawn.tags)
                };
                let spawns = self.spawns.values().rev().filter(visible).filter(takes);
                TopicSnapshot::Spawns(spawns.cloned().collect())
            }
            Topic::Node(node) => TopicSnapshot::Node(self.nodes.get(node).cloned()),
            Topic::Spawn(spawn) => TopicSnapshot::Spawn(self.spawns.get(spawn).filter(visible).cloned()),
        }
    }

    /// A spawn that has not ended.
    pub(crate) fn spawn(&self, spawn: SpawnId) -> Option<&Followed> {
        self.spawns.get(&spawn).map(|spawn| &**spawn)
    }

    /// The owner of a spawn; the inner `None`: it has none. The outer one: the spawn is not known here.
    pub(crate) fn owner(&self, spawn: SpawnId) -> Option<Option<&Owner>> {
        self.spawns.get(&spawn).map(|spawn| spawn.owner.as_ref())
    }

    /// The node that a spawn runs on.
    pub(crate) fn node_of(&self, spawn: SpawnId) -> Option<&NodeId> {
        self.spawns.get(&spawn).map(|spawn| &spawn.spawn.node)
    }

    /// The owner of the spawn in the next event, likewise; events of nodes and those of many spawns have none.
    fn owner_in(&self, event: &Event) -> Option<Option<Owner>> {
        let Some(spawn) = event.spawn else { return Some(None) };
        match self.owner(spawn) {
            Some(owner) => Some(owner.cloned()),
            None => introduces(event).then(|| event.field("owner")),
        }
    }

    /// What the spawn in the next event is. Events of nodes and those of many spawns are known to have no owner.
    pub(crate) fn subject_of(&self, event: &Event) -> Subject {
        let owner = self.owner_in(event);
        let known = event.spawn.and_then(|spawn| self.spawn(spawn));
        Subject {
            is_known: owner.is_some(),
            owner: owner.flatten(),
            tags: known
                .map_or_else(|| event.field("tags").unwrap_or_default(), |known| known.spawn.tags.clone()),
        }
    }

    /// How many nodes' spawns were read and are not exact yet.
    pub(crate) fn coming(&self) -> usize {
        self.coming.len()
    }

    /// The nodes that are up.
    pub(crate) fn up(&self) -> Vec<NodeId> {
        let up = self.nodes.values().filter(|node| node.availability == Availability::Up);
        up.map(|node| node.id.clone()).collect()
    }

    /// The node that has to be read before this event can be applied: an event does not say what a node offers.
    pub(crate) fn lacks<'e>(&self, event: &'e Event) -> Option<&'e NodeId> {
        let is_shown = !is_of_spawns(event.kind) && event.kind != EventKind::NodeForgotten;
        let node = event.node.as_ref().filter(|_| is_shown)?;
        (event.kind == EventKind::NodeCapacity || !self.nodes.contains_key(node)).then_some(node)
    }

    /// Applies the next event, with the node that it needs.
    pub(crate) fn apply(&mut self, event: &Event, read: Option<Node>, watched: Watched) {
        self.seq = event.seq;
        self.settle();
        if let Some(node) = read {
            // What events change is not taken from what was read, because that may be newer than this event.
            let node = match self.nodes.get(&node.id) {
                Some(old) => keep_events(old, node),
                None => {
                    if self.covers_new {
                        self.covered.insert(node.id.clone());
                    }
                    node
                }
            };
            self.nodes.insert(node.id.clone(), Arc::new(node));
        }
        if is_of_spawns(event.kind) {
            self.apply_to_spawns(event, watched);
        } else if event.kind == EventKind::NodeForgotten {
            if let Some(node) = &event.node {
                self.nodes.remove(node);
                self.covered.remove(node);
            }
        } else if let Some(node) = event.node.as_ref().and_then(|id| self.nodes.get_mut(id)) {
            apply_to_node(Arc::make_mut(node), event);
        }
    }

    fn apply_to_spawns(&mut self, event: &Event, watched: Watched) {
        let state = match event.kind {
            EventKind::SpawnPing => {
                for (id, at) in pings(event) {
                    if let Some(spawn) = self.spawns.get_mut(&id) {
                        Arc::make_mut(spawn).spawn.last_ping_at = Some(at);
                    }
                }
                return;
            }
            EventKind::SpawnExited => {
                event.spawn.map(|id| self.spawns.remove(&id));
                return;
            }
            EventKind::SpawnConnected => {
                if let Some(spawn) = event.spawn.and_then(|id| self.spawns.get_mut(&id)) {
                    let spawn = &mut Arc::make_mut(spawn).spawn;
                    (spawn.connected_at, spawn.disconnected_at) = (Some(event.at), None);
                    spawn.viewer = ViewerPresence::Connected;
                }
                return;
            }
            kind => kind.state(),
        };
        let (Some(state), Some(id)) = (state, event.spawn) else { return };
        if !self.spawns.contains_key(&id) {
            let is_followed = event.node.as_ref().is_some_and(|node| self.has_spawns_of(node));
            if !is_followed && watched == Watched::No {
                return;
            }
            let Some(spawn) = self.introduced(id, event) else { return };
            self.spawns.insert(id, Arc::new(spawn));
        }
        if let Some(spawn) = self.spawns.get_mut(&id) {
            let spawn = &mut Arc::make_mut(spawn).spawn;
            spawn.state = state;
            if state == SpawnState::Disconnected && spawn.connected_at.is_some() {
                spawn.disconnected_at = spawn.disconnected_at.or(Some(event.at));
            }
            spawn.viewer = ViewerPresence::of(state, spawn.connected_at, spawn.disconnected_at);
            if state == SpawnState::Ready {
                spawn.ready_at = spawn.ready_at.or(Some(event.at));
                // It may have had to take another port since it was launched.
                spawn.endpoint =
                    event.field("endpoint").unwrap_or_else(|| std::mem::take(&mut spawn.endpoint));
            }
        }
    }

    /// The record that a spawn's first event makes.
    fn introduced(&self, id: SpawnId, event: &Event) -> Option<Followed> {
        let node = event.node.clone()?;
        let pool = self.nodes.get(&node).map_or_else(|| "default".to_owned(), |node| node.pool.clone());
        let owner = event.field::<Owner>("owner");
        let spawn = Spawn {
            id,
            node,
            endpoint: event.field("endpoint")?,
            renderer_type: event.field::<RendererType>("rendererType")?,
            state: SpawnState::Launching,
            exit: None,
            started_at: event.field("startedAt").unwrap_or(event.at),
            ready_at: event.field::<Timestamp>("readyAt"),
            last_ping_at: None,
            viewer: ViewerPresence::Never,
            connected_at: event.field("connectedAt"),
            disconnected_at: event.field("disconnectedAt"),
            expires_at: None,
            ended_at: None,
            pool,
            labels: event.field("labels").unwrap_or_default(),
            tags: event.field("tags").unwrap_or_default(),
            owner: owner.as_ref().map(ToString::to_string),
            request_id: None,
            trace_id: None,
            phases: None,
            gpu: event.field("gpu"),
            warm: event.field::<SpawnId>("serverId").is_some(),
            server_id: event.field("serverId"),
            ended_by: None,
            events: None,
        };
        Some(Followed { spawn, owner })
    }

    /// Takes in what is no event: how busy nodes are, and which of those that are down have been forgotten. Sorted by name.
    pub(crate) fn refresh(&mut self, read: &[Node]) {
        let known = |id: &NodeId| read.binary_search_by(|node| node.id.cmp(id)).ok();
        self.nodes.retain(|id, node| node.availability != Availability::Down || known(id).is_some());
        for (id, node) in &mut self.nodes {
            if let Some(at) = known(id) {
                *node = Arc::new(keep_events(node, read[at].clone()));
            }
        }
    }
}

/// Whether the event says all there is to know of its spawn.
fn introduces(event: &Event) -> bool {
    event.data.contains_key("rendererType")
}

/// A node as it was read, except for what only events change.
fn keep_events(known: &Node, read: Node) -> Node {
    let remaining = read.slots.used;
    let drain = known.drain.clone().map(|drain| DrainProgress { remaining, ..drain });
    Node { eligibility: known.eligibility, availability: known.availability, drain, ..read }
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
        EventKind::NodeFailing | EventKind::NodeRecovered => {
            node.health = event.field("health").unwrap_or_default();
        }
        // What it offers was read; the rest are events of spawns.
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests;
