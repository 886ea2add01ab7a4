//! The farm as it was right after one event: what snapshots are made from. Applying the next event gives the next view.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::api::{DrainProgress, Node, Spawn};
use model::{
    Availability, Drain, Eligibility, Event, EventKind, NodeId, Owner, RendererType, SpawnId, SpawnState,
    Timestamp, ViewerPresence,
};
use serde_json::Value;

use super::followed::Followed;
use super::protocol::{Topic, TopicSnapshot, is_of_spawns, pings};

/// See the module's documentation. The load and the used slots of a node are no events: they are as of the last refresh.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The last event applied.
    pub(crate) seq: u64,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    /// Those that have not ended.
    spawns: BTreeMap<SpawnId, Arc<Followed>>,
}

impl View {
    /// Made of what was read while events happened; those after `seq` must be applied.
    pub(crate) fn new(seq: u64, nodes: Vec<Node>, spawns: Vec<Followed>) -> Self {
        Self {
            seq,
            nodes: nodes.into_iter().map(|node| (node.id.clone(), Arc::new(node))).collect(),
            spawns: spawns.into_iter().map(|spawn| (spawn.spawn.id, Arc::new(spawn))).collect(),
        }
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
            Topic::Node(node) => TopicSnapshot::Node(self.nodes.get(node).cloned()),
            Topic::Spawn(spawn) => TopicSnapshot::Spawn(self.spawns.get(spawn).filter(visible).cloned()),
        }
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
    pub(crate) fn owner_in(&self, event: &Event) -> Option<Option<Owner>> {
        let Some(spawn) = event.spawn else { return Some(None) };
        match self.owner(spawn) {
            Some(owner) => Some(owner.cloned()),
            None => introduces(event).then(|| event.field("owner")),
        }
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
    pub(crate) fn apply(&mut self, event: &Event, read: Option<Node>) {
        self.seq = event.seq;
        if let Some(node) = read {
            // What events change is not taken from what was read, because that may be newer than this event.
            let node = match self.nodes.get(&node.id) {
                Some(old) => keep_events(old, node),
                None => node,
            };
            self.nodes.insert(node.id.clone(), Arc::new(node));
        }
        if is_of_spawns(event.kind) {
            self.apply_to_spawns(event);
        } else if event.kind == EventKind::NodeForgotten {
            event.node.as_ref().map(|node| self.nodes.remove(node));
        } else if let Some(node) = event.node.as_ref().and_then(|id| self.nodes.get_mut(id)) {
            apply_to_node(Arc::make_mut(node), event);
        }
    }

    fn apply_to_spawns(&mut self, event: &Event) {
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
mod tests {
    use std::collections::BTreeMap;

    use model::api::SlotCount;
    use model::{AgentEpoch, Load};
    use serde_json::json;

    use super::*;

    fn node(id: &str, used: u32) -> Node {
        Node {
            id: id.parse().unwrap(),
            eligibility: Eligibility::Eligible,
            availability: Availability::Up,
            slots: SlotCount { total: 4, used },
            gpus: Vec::new(),
            pool: "big".to_owned(),
            labels: BTreeMap::new(),
            version: "0.1.0".to_owned(),
            epoch: AgentEpoch::mint(),
            advertise: String::new(),
            viewer_relay: None,
            endpoint: String::new(),
            load: Load::default(),
            last_heartbeat_at: Timestamp::default(),
            drain: None,
            health: model::NodeHealth::default(),
            dedicated: false,
            starts: None,
            warm: BTreeMap::new(),
        }
    }

    fn event(seq: u64, kind: EventKind, spawn: Option<SpawnId>, data: Value) -> Event {
        let Value::Object(data) = data else { panic!("an object") };
        Event { seq, at: Timestamp::from_millis(seq), kind, node: Some("a".parse().unwrap()), spawn, data }
    }

    fn snapshot(view: &View, topic: &str) -> Value {
        serde_json::to_value(view.snapshot(&topic.parse().unwrap(), None)).unwrap()
    }

    #[test]
    fn a_spawn_is_followed_from_its_first_event_to_its_last() {
        let mut view = View::new(1, vec![node("a", 0)], Vec::new());
        let id = SpawnId::mint();
        let first = json!({"rendererType": "ssr", "endpoint": "ws://x", "labels": {"sdk": "1"}, "gpu": 2,
            "owner": "key:ann"});
        view.apply(&event(2, EventKind::SpawnLaunching, Some(id), first), None);
        view.apply(&event(3, EventKind::SpawnReady, Some(id), json!({"endpoint": "ws://y"})), None);
        let pings = json!({"pings": {id.to_string(): Timestamp::from_millis(4)}});
        view.apply(&event(4, EventKind::SpawnPing, None, pings), None);
        view.apply(&event(5, EventKind::SpawnConnected, Some(id), json!({})), None);
        view.apply(&event(5, EventKind::SpawnSuspect, Some(id), json!({})), None);
        view.apply(&event(6, EventKind::SpawnReady, Some(id), json!({"endpoint": "ws://y"})), None);
        let at = Timestamp::from_millis;
        let wanted = json!({"id": id, "node": "a", "endpoint": "ws://y", "rendererType": "ssr", "state": "ready",
            "startedAt": at(2), "readyAt": at(3), "lastPingAt": at(4), "viewer": "connected", "connectedAt": at(5),
            "pool": "big", "labels": {"sdk": "1"}, "gpu": 2, "owner": "key:ann"});
        assert_eq!((view.seq, snapshot(&view, "spawns")), (6, json!([wanted])));
        assert_eq!(snapshot(&view, &format!("spawn:{id}")), wanted);
        view.apply(&event(7, EventKind::SpawnExited, Some(id), json!({"exit": {"reason": "stopped"}})), None);
        assert_eq!(snapshot(&view, "spawns"), json!([]));
        // One that is met in the middle of its life says what it was before.
        let later =
            json!({"rendererType": "csr", "endpoint": "ws://y", "startedAt": at(1), "readyAt": at(2)});
        view.apply(&event(8, EventKind::SpawnDisconnected, Some(id), later), None);
        let met = &snapshot(&view, "spawns")[0];
        assert_eq!(met.get("owner"), None);
        assert_eq!(
            (&met["state"], &met["startedAt"], &met["readyAt"]),
            (&json!("disconnected"), &json!(at(1)), &json!(at(2)))
        );
        // One of which nothing is known cannot be made up.
        view.apply(&event(9, EventKind::SpawnSuspect, Some(SpawnId::mint()), json!({})), None);
        assert_eq!(snapshot(&view, "spawns").as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_forgotten_node_is_gone_and_not_read_again() {
        let mut view = View::new(1, vec![node("a", 0)], Vec::new());
        let gone = event(2, EventKind::NodeForgotten, None, json!({"by": "key:ops"}));
        let unknown = Event { node: Some("b".parse().unwrap()), ..gone.clone() };
        assert_eq!((view.lacks(&gone), view.lacks(&unknown)), (None, None));
        view.apply(&gone, None);
        view.apply(&unknown, None);
        assert_eq!((view.seq, snapshot(&view, "nodes")), (2, json!([])));
        assert_eq!(snapshot(&view, "node:a"), Value::Null);
    }

    #[test]
    fn what_events_say_of_a_node_comes_from_events_only() {
        let mut view = View::new(1, vec![node("a", 0)], Vec::new());
        let (up, unknown) = (
            event(2, EventKind::NodeUp, None, json!({})),
            Event { node: Some("b".parse().unwrap()), ..event(3, EventKind::NodeUp, None, json!({})) },
        );
        assert_eq!((view.lacks(&up), view.lacks(&unknown)), (None, unknown.node.as_ref()));
        let times = json!({"deadline": Timestamp::from_millis(9), "startedAt": Timestamp::from_millis(3), "by": "me"});
        view.apply(&event(3, EventKind::NodeDraining, None, times), None);
        view.apply(&event(4, EventKind::NodeStale, None, json!({})), None);
        // What was read is busier, and of another moment.
        view.refresh(&[node("a", 3)]);
        let shown = snapshot(&view, "node:a");
        assert_eq!(
            (&shown["eligibility"], &shown["availability"]),
            (&json!("draining"), &json!("stale")),
            "{shown}"
        );
        assert_eq!(
            (&shown["slots"]["used"], &shown["drain"]["remaining"]),
            (&json!(3), &json!(3)),
            "{shown}"
        );
        assert_eq!(shown["drain"]["by"], "me");
        view.apply(&event(5, EventKind::NodeUncordoned, None, json!({})), None);
        assert_eq!(snapshot(&view, "node:a").get("drain"), None);
        // A node that was forgotten is forgotten here too, but only one that is down.
        view.refresh(&[]);
        assert_eq!(snapshot(&view, "nodes").as_array().unwrap().len(), 1);
        view.apply(&event(6, EventKind::NodeDown, None, json!({})), None);
        view.refresh(&[]);
        assert_eq!((snapshot(&view, "nodes"), snapshot(&view, "node:a")), (json!([]), Value::Null));
    }
    #[test]
    fn an_owner_sees_its_own_spawns_and_no_others() {
        let mut view = View::new(1, vec![node("a", 0)], Vec::new());
        let [mine, theirs, nobodys] = [(); 3].map(|()| SpawnId::mint());
        let [me, them]: [Owner; 2] = ["key:me", "key:them"].map(|name| name.parse().unwrap());
        for (seq, id, owner) in [(2, mine, json!(me)), (3, theirs, json!(them)), (4, nobodys, json!(null))] {
            let first = json!({"rendererType": "csr", "endpoint": "ws://x", "owner": owner});
            let launching = event(seq, EventKind::SpawnLaunching, Some(id), first);
            assert_eq!(view.owner_in(&launching), Some(serde_json::from_value(owner).unwrap()));
            view.apply(&launching, None);
        }
        let seen =
            |topic: &str, only| serde_json::to_value(view.snapshot(&topic.parse().unwrap(), only)).unwrap();
        assert_eq!(seen("spawns", None).as_array().unwrap().len(), 3);
        let own = seen("spawns", Some(&me));
        assert_eq!((own.as_array().unwrap().len(), &own[0]["id"]), (1, &json!(mine)));
        assert_eq!(seen(&format!("spawn:{theirs}"), Some(&me)), Value::Null);
        assert_eq!(seen(&format!("spawn:{nobodys}"), Some(&me)), Value::Null);
        assert_eq!(seen(&format!("spawn:{mine}"), Some(&me))["owner"], json!(me));
        let ended = |id| event(5, EventKind::SpawnExited, Some(id), json!({}));
        assert_eq!(view.owner_in(&ended(theirs)), Some(Some(them)));
        assert_eq!(view.owner_in(&ended(SpawnId::mint())), None, "of a spawn that was never met");
        assert_eq!(view.owner_in(&event(5, EventKind::NodeUp, None, json!({}))), Some(None));
    }
}
