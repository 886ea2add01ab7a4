//! The living spawns that the listener speaks of, as of one event: by state for `/api/status`, by id, and by port.
//!
//! Owns: a copy of what the registry knows of the spawns of one owner, or of all where none is named. Only `follow` changes it.
//!
//! Invariant: a port leads somewhere only while spawns of one node alone have it. What an agent said last counts; whether a viewer may
//! connect, the agent decides.

use std::collections::{BTreeMap, HashMap, HashSet};

use model::{Event, EventKind, NodeId, Owner, RendererType, SpawnId, SpawnRecord, SpawnState, Timestamp};

use super::endpoint::bare_port;

/// What the index keeps of one spawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) node: NodeId,
    pub(super) state: SpawnState,
    pub(super) gpu: Option<u32>,
    pub(super) started: Timestamp,
    /// When it was last heard of.
    pub(super) updated: Timestamp,
    /// Its port, where its endpoint is no more than that.
    port: Option<u16>,
}

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AtPort {
    Nothing,
    One(NodeId, SpawnId),
    /// Spawns of these nodes have it.
    Several(Vec<NodeId>),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Index {
    only: Option<Owner>,
    /// The last event that was applied.
    pub(super) seq: u64,
    spawns: BTreeMap<SpawnId, Known>,
    ports: HashMap<u16, Vec<SpawnId>>,
    /// The node that last had a spawn on a port.
    last: HashMap<u16, NodeId>,
    /// Ports that spawns of several nodes have had.
    overlapping: HashSet<u16>,
}

/// A port that was another node's before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) port: u16,
    pub(super) nodes: [NodeId; 2],
}

impl Index {
    /// Of the spawns of this owner; `None`: of all.
    pub(super) fn new(only: Option<Owner>) -> Self {
        Self { only, ..Self::default() }
    }

    /// An empty one that remembers which node had which port.
    pub(super) fn renewed(&self) -> Self {
        let (last, overlapping) = (self.last.clone(), self.overlapping.clone());
        Self { last, overlapping, ..Self::new(self.only.clone()) }
    }

    /// How many ports several nodes have had.
    pub(super) fn overlapping(&self) -> usize {
        self.overlapping.len()
    }

    /// How many spawns are in each state.
    pub(super) fn counts(&self) -> BTreeMap<SpawnState, usize> {
        let mut counts = BTreeMap::new();
        for spawn in self.spawns.values() {
            *counts.entry(spawn.state).or_default() += 1;
        }
        counts
    }

    pub(super) fn len(&self) -> usize {
        self.spawns.len()
    }

    pub(super) fn has(&self, spawn: SpawnId) -> bool {
        self.spawns.contains_key(&spawn)
    }

    /// The newest spawns, at most so many, the oldest of them first.
    pub(super) fn newest(&self, max: usize) -> Vec<(SpawnId, Known)> {
        // Ids sort by when they were minted.
        let mut newest: Vec<_> =
            self.spawns.iter().rev().take(max).map(|(id, known)| (*id, known.clone())).collect();
        newest.reverse();
        newest
    }

    /// How many spawns have each GPU, of all nodes together.
    pub(super) fn gpus(&self) -> BTreeMap<u32, usize> {
        let mut gpus = BTreeMap::new();
        for gpu in self.spawns.values().filter_map(|spawn| spawn.gpu) {
            *gpus.entry(gpu).or_default() += 1;
        }
        gpus
    }

    /// The spawn that has this port. One whose start is under way counts not yet, one that is ending counts still: a viewer of that
    /// one must not get to another node's.
    pub(super) fn at(&self, port: u16) -> AtPort {
        let ids = self.ports.get(&port).map(Vec::as_slice).unwrap_or_default();
        let known = |id: &SpawnId| self.spawns.get(id).map(|known| (*id, known));
        let mut on: Vec<(SpawnId, &Known)> =
            ids.iter().filter_map(known).filter(|(_, known)| known.state != SpawnState::Launching).collect();
        on.sort_by_key(|(id, _)| *id);
        let Some((newest, known)) = on.last() else { return AtPort::Nothing };
        let mut nodes: Vec<NodeId> = on.iter().map(|(_, known)| known.node.clone()).collect();
        nodes.sort();
        nodes.dedup();
        if nodes.len() > 1 { AtPort::Several(nodes) } else { AtPort::One(known.node.clone(), *newest) }
    }

    /// Takes in a spawn that the registry listed.
    pub(super) fn insert(&mut self, record: SpawnRecord) -> Option<Overlap> {
        if !self.covers(record.owner.as_ref()) {
            return None;
        }
        let heard = [record.last_ping_at, record.ready_at].into_iter().flatten().max();
        let known = Known {
            node: record.node,
            state: record.state,
            gpu: record.gpu,
            started: record.started_at,
            updated: heard.unwrap_or(record.started_at),
            port: None,
        };
        self.spawns.insert(record.id, known);
        self.place(record.id, &record.endpoint)
    }

    /// Applies the next event. Returns a port that it shows to be several nodes'.
    pub(super) fn apply(&mut self, event: &Event) -> Option<Overlap> {
        self.seq = self.seq.max(event.seq);
        let state = match event.kind {
            EventKind::SpawnPing => {
                self.ping(event);
                return None;
            }
            EventKind::SpawnExited => {
                if let Some(id) = event.spawn {
                    self.remove(id);
                }
                return None;
            }
            kind => kind.state()?,
        };
        let id = event.spawn?;
        if !self.spawns.contains_key(&id) {
            // Only an event that says all of a spawn can begin it; others are of spawns of other owners.
            event.field::<RendererType>("rendererType")?;
            if !self.covers(event.field::<Owner>("owner").as_ref()) {
                return None;
            }
            let started = event.field("startedAt").unwrap_or(event.at);
            let (node, gpu) = (event.node.clone()?, event.field("gpu"));
            let known = Known { node, state, gpu, started, updated: event.at, port: None };
            self.spawns.insert(id, known);
        }
        if let Some(known) = self.spawns.get_mut(&id) {
            (known.state, known.updated) = (state, event.at);
        }
        // It may have had to take another port since it was launched.
        let endpoint: String = event.field("endpoint")?;
        self.place(id, &endpoint)
    }

    fn covers(&self, owner: Option<&Owner>) -> bool {
        self.only.is_none() || self.only.as_ref() == owner
    }

    /// Notes the port that the spawn's endpoint is.
    fn place(&mut self, id: SpawnId, endpoint: &str) -> Option<Overlap> {
        let port = bare_port(endpoint);
        let known = self.spawns.get_mut(&id)?;
        if known.port == port {
            return None;
        }
        let (before, node) = (std::mem::replace(&mut known.port, port), known.node.clone());
        self.forget(before, id);
        let port = port?;
        self.ports.entry(port).or_default().push(id);
        let last = self.last.insert(port, node.clone()).filter(|last| *last != node)?;
        self.overlapping.insert(port).then_some(Overlap { port, nodes: [last, node] })
    }

    fn remove(&mut self, id: SpawnId) {
        if let Some(known) = self.spawns.remove(&id) {
            self.forget(known.port, id);
        }
    }

    fn forget(&mut self, port: Option<u16>, id: SpawnId) {
        let Some(port) = port else { return };
        if let Some(ids) = self.ports.get_mut(&port) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.ports.remove(&port);
            }
        }
    }

    fn ping(&mut self, event: &Event) {
        let pings: HashMap<SpawnId, Timestamp> = event.field("pings").unwrap_or_default();
        for (id, at) in pings {
            if let Some(known) = self.spawns.get_mut(&id) {
                known.updated = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(seq: u64, kind: EventKind, node: &str, spawn: SpawnId, data: Value) -> Event {
        let Value::Object(data) = data else { panic!("an object") };
        let node = Some(node.parse().unwrap());
        Event { seq, at: Timestamp::from_millis(seq), kind, node, spawn: Some(spawn), data }
    }

    fn launching(node: &str, spawn: SpawnId, endpoint: &str) -> Event {
        event(1, EventKind::SpawnLaunching, node, spawn, json!({"rendererType": "csr", "endpoint": endpoint}))
    }

    fn ready(node: &str, spawn: SpawnId, endpoint: &str) -> Event {
        event(2, EventKind::SpawnReady, node, spawn, json!({"endpoint": endpoint}))
    }

    #[test]
    fn a_port_leads_to_the_spawn_that_has_it_from_ready_until_it_has_ended() {
        let (mut index, id) = (Index::new(None), SpawnId::mint());
        index.apply(&launching("a", id, "ws://a:1"));
        assert_eq!(index.at(1), AtPort::Nothing, "no answer has named it yet");
        index.apply(&ready("a", id, "ws://a:2"));
        assert_eq!((index.at(1), index.at(2)), (AtPort::Nothing, AtPort::One("a".parse().unwrap(), id)));
        let next = SpawnId::mint();
        index.apply(&launching("a", next, "ws://a:2"));
        index.apply(&ready("a", next, "ws://a:2"));
        assert_eq!(index.at(2), AtPort::One("a".parse().unwrap(), next), "a node knows its own ports");
        index.apply(&event(3, EventKind::SpawnExited, "a", next, json!({})));
        index.apply(&event(4, EventKind::SpawnExited, "a", id, json!({})));
        assert_eq!((index.at(2), index.len(), index.seq), (AtPort::Nothing, 0, 4));
        assert!(index.ports.is_empty());
    }

    #[test]
    fn a_port_of_two_nodes_leads_nowhere_and_is_noticed_once() {
        let (mut index, [a, b]) = (Index::new(None), [(); 2].map(|()| SpawnId::mint()));
        assert_eq!(index.apply(&launching("a", a, "wss://farm:7")), None);
        index.apply(&ready("a", a, "wss://farm:7"));
        let overlap = index.apply(&launching("b", b, "wss://farm:7")).unwrap();
        assert_eq!((overlap.port, overlap.nodes), (7, ["a", "b"].map(|node| node.parse().unwrap())));
        assert_eq!(index.at(7), AtPort::One("a".parse().unwrap(), a), "the other is not ready");
        assert_eq!(index.apply(&ready("b", b, "wss://farm:7")), None);
        let several = AtPort::Several(["a", "b"].map(|node| node.parse().unwrap()).to_vec());
        for kind in [EventKind::SpawnSuspect, EventKind::SpawnStopping, EventKind::SpawnLost] {
            index.apply(&event(3, kind, "a", a, json!({})));
            assert_eq!(index.at(7), several, "{kind:?}");
        }
        index.apply(&event(4, EventKind::SpawnExited, "a", a, json!({})));
        assert_eq!(index.at(7), AtPort::One("b".parse().unwrap(), b));
        // One after the other is an overlap as well, and this port is known to have one.
        let next = SpawnId::mint();
        assert_eq!(index.apply(&launching("a", next, "wss://farm:7")), None);
        assert_eq!((index.overlapping(), index.renewed().overlapping(), index.renewed().len()), (1, 1, 0));
    }

    #[test]
    fn only_spawns_of_the_owner_are_known() {
        let mut index = Index::new(Some("web".parse().unwrap()));
        let ids = [(); 3].map(|()| SpawnId::mint());
        for (id, owner) in ids.into_iter().zip([json!("web"), json!("key:ann"), Value::Null]) {
            let data = json!({"rendererType": "ssr", "endpoint": "ws://a:1", "owner": owner, "gpu": 2});
            index.apply(&event(1, EventKind::SpawnLaunching, "a", id, data));
            index.apply(&ready("a", id, "ws://a:1"));
        }
        assert_eq!((index.len(), index.counts()), (1, BTreeMap::from([(SpawnState::Ready, 1)])));
        assert_eq!(index.at(1), AtPort::One("a".parse().unwrap(), ids[0]));
        assert_eq!(index.gpus(), BTreeMap::from([(2, 1)]));
        let at = Timestamp::from_millis(9);
        let pings = json!({"pings": {ids[0].to_string(): at, ids[1].to_string(): at}});
        index.apply(&Event { spawn: None, ..event(3, EventKind::SpawnPing, "a", ids[0], pings) });
        assert_eq!(index.newest(9)[0].1.updated, at);
        assert!(index.has(ids[0]) && !index.has(ids[1]));
    }
}
