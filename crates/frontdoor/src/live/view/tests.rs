use std::collections::BTreeMap;

use model::api::SlotCount;
use model::{AgentEpoch, Load};
use serde_json::json;

use super::*;
use crate::callers::OwnerNames;
use crate::live::encoded::Encoded;

pub(crate) fn node(id: &str, used: u32) -> Node {
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
        unreachable: None,
        dedicated: false,
        starts: None,
        warm: BTreeMap::new(),
    }
}

pub(crate) fn event(seq: u64, kind: EventKind, spawn: Option<SpawnId>, data: Value) -> Event {
    let Value::Object(data) = data else { panic!("an object") };
    Event { seq, at: Timestamp::from_millis(seq), kind, node: Some("a".parse().unwrap()), spawn, data }
}

/// A view that has all spawns.
pub(crate) fn covered(nodes: Vec<Node>) -> View {
    let names: Vec<NodeId> = nodes.iter().map(|node| node.id.clone()).collect();
    let mut view = View::new(1, nodes);
    view.covers_new = true;
    view.cover(&names, Vec::new(), 1, &[]);
    view
}

/// A snapshot as its subscribers read it.
fn seen(view: &View, topic: &str, only: Option<&Owner>) -> Value {
    let topic = topic.parse().unwrap();
    let encoded = Encoded::of(&view.snapshot(&topic, only), &OwnerNames::default());
    serde_json::from_slice::<Value>(&encoded.whole(&topic, 1).concat()).unwrap()["snapshot"].clone()
}

fn snapshot(view: &View, topic: &str) -> Value {
    seen(view, topic, None)
}

#[test]
fn a_spawn_is_followed_from_its_first_event_to_its_last() {
    let mut view = covered(vec![node("a", 0)]);
    let id = SpawnId::mint();
    let first = json!({"rendererType": "ssr", "endpoint": "ws://x", "labels": {"sdk": "1"}, "gpu": 2,
        "owner": "key:ann"});
    view.apply(&event(2, EventKind::SpawnLaunching, Some(id), first), None, Watched::No);
    view.apply(&event(3, EventKind::SpawnReady, Some(id), json!({"endpoint": "ws://y"})), None, Watched::No);
    let pings = json!({"pings": {id.to_string(): Timestamp::from_millis(4)}});
    view.apply(&event(4, EventKind::SpawnPing, None, pings), None, Watched::No);
    view.apply(&event(5, EventKind::SpawnConnected, Some(id), json!({})), None, Watched::No);
    view.apply(&event(5, EventKind::SpawnSuspect, Some(id), json!({})), None, Watched::No);
    view.apply(&event(6, EventKind::SpawnReady, Some(id), json!({"endpoint": "ws://y"})), None, Watched::No);
    let at = Timestamp::from_millis;
    let wanted = json!({"id": id, "node": "a", "endpoint": "ws://y", "rendererType": "ssr", "state": "ready",
        "startedAt": at(2), "readyAt": at(3), "lastPingAt": at(4), "viewer": "connected", "connectedAt": at(5),
        "pool": "big", "labels": {"sdk": "1"}, "gpu": 2, "owner": "key:ann"});
    assert_eq!((view.seq, snapshot(&view, "spawns")), (6, json!([wanted])));
    assert_eq!(snapshot(&view, &format!("spawn:{id}")), wanted);
    view.apply(
        &event(7, EventKind::SpawnExited, Some(id), json!({"exit": {"reason": "stopped"}})),
        None,
        Watched::No,
    );
    assert_eq!(snapshot(&view, "spawns"), json!([]));
    // One that is met in the middle of its life says what it was before.
    let later = json!({"rendererType": "csr", "endpoint": "ws://y", "startedAt": at(1), "readyAt": at(2)});
    view.apply(&event(8, EventKind::SpawnDisconnected, Some(id), later), None, Watched::No);
    let met = &snapshot(&view, "spawns")[0];
    assert_eq!(met.get("owner"), None);
    assert_eq!(
        (&met["state"], &met["startedAt"], &met["readyAt"]),
        (&json!("disconnected"), &json!(at(1)), &json!(at(2)))
    );
    // One of which nothing is known cannot be made up.
    view.apply(&event(9, EventKind::SpawnSuspect, Some(SpawnId::mint()), json!({})), None, Watched::No);
    assert_eq!(snapshot(&view, "spawns").as_array().unwrap().len(), 1);
}

#[test]
fn a_forgotten_node_is_gone_and_not_read_again() {
    let mut view = covered(vec![node("a", 0)]);
    let gone = event(2, EventKind::NodeForgotten, None, json!({"by": "key:ops"}));
    let unknown = Event { node: Some("b".parse().unwrap()), ..gone.clone() };
    assert_eq!((view.lacks(&gone), view.lacks(&unknown)), (None, None));
    view.apply(&gone, None, Watched::No);
    view.apply(&unknown, None, Watched::No);
    assert_eq!((view.seq, snapshot(&view, "nodes")), (2, json!([])));
    assert_eq!(snapshot(&view, "node:a"), Value::Null);
}

#[test]
fn what_events_say_of_a_node_comes_from_events_only() {
    let mut view = covered(vec![node("a", 0)]);
    let (up, unknown) = (
        event(2, EventKind::NodeUp, None, json!({})),
        Event { node: Some("b".parse().unwrap()), ..event(3, EventKind::NodeUp, None, json!({})) },
    );
    assert_eq!((view.lacks(&up), view.lacks(&unknown)), (None, unknown.node.as_ref()));
    let times =
        json!({"deadline": Timestamp::from_millis(9), "startedAt": Timestamp::from_millis(3), "by": "me"});
    view.apply(&event(3, EventKind::NodeDraining, None, times), None, Watched::No);
    view.apply(&event(4, EventKind::NodeStale, None, json!({})), None, Watched::No);
    // What was read is busier, and of another moment.
    view.refresh(&[node("a", 3)]);
    let told = snapshot(&view, "node:a");
    assert_eq!(
        (&told["eligibility"], &told["availability"]),
        (&json!("draining"), &json!("stale")),
        "{told}"
    );
    assert_eq!((&told["slots"]["used"], &told["drain"]["remaining"]), (&json!(3), &json!(3)), "{told}");
    assert_eq!(told["drain"]["by"], "me");
    view.apply(&event(5, EventKind::NodeUncordoned, None, json!({})), None, Watched::No);
    assert_eq!(snapshot(&view, "node:a").get("drain"), None);
    // A node that was forgotten is forgotten here too, but only one that is down.
    view.refresh(&[]);
    assert_eq!(snapshot(&view, "nodes").as_array().unwrap().len(), 1);
    view.apply(&event(6, EventKind::NodeDown, None, json!({})), None, Watched::No);
    view.refresh(&[]);
    assert_eq!((snapshot(&view, "nodes"), snapshot(&view, "node:a")), (json!([]), Value::Null));
}
#[test]
fn an_owner_sees_its_own_spawns_and_no_others() {
    let mut view = covered(vec![node("a", 0)]);
    let [mine, theirs, nobodys] = [(); 3].map(|()| SpawnId::mint());
    let [me, them]: [Owner; 2] = ["key:me", "key:them"].map(|name| name.parse().unwrap());
    for (seq, id, owner) in [(2, mine, json!(me)), (3, theirs, json!(them)), (4, nobodys, json!(null))] {
        let first = json!({"rendererType": "csr", "endpoint": "ws://x", "owner": owner});
        let launching = event(seq, EventKind::SpawnLaunching, Some(id), first);
        assert_eq!(view.owner_in(&launching), Some(serde_json::from_value(owner).unwrap()));
        view.apply(&launching, None, Watched::No);
    }
    assert_eq!(seen(&view, "spawns", None).as_array().unwrap().len(), 3);
    let own = seen(&view, "spawns", Some(&me));
    assert_eq!((own.as_array().unwrap().len(), &own[0]["id"]), (1, &json!(mine)));
    assert_eq!(seen(&view, &format!("spawn:{theirs}"), Some(&me)), Value::Null);
    assert_eq!(seen(&view, &format!("spawn:{nobodys}"), Some(&me)), Value::Null);
    assert_eq!(seen(&view, &format!("spawn:{mine}"), Some(&me))["owner"], json!(me));
    let ended = |id| event(5, EventKind::SpawnExited, Some(id), json!({}));
    assert_eq!(view.owner_in(&ended(theirs)), Some(Some(them)));
    assert_eq!(view.owner_in(&ended(SpawnId::mint())), None, "of a spawn that was never met");
    assert_eq!(view.owner_in(&event(5, EventKind::NodeUp, None, json!({}))), Some(None));
}

#[test]
fn spawns_are_kept_of_covered_nodes_alone_and_exact_once_the_events_since_are_here() {
    let mut view = View::new(10, vec![node("a", 0), node("b", 0)]);
    let [a, b]: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
    let [read, ended, new, other, watched] = [(); 5].map(|()| SpawnId::mint());
    let first = || json!({"rendererType": "csr", "endpoint": "ws://x"});
    let launching = |seq, id| event(seq, EventKind::SpawnLaunching, Some(id), first());
    view.apply(&launching(11, other), None, Watched::No);
    assert!(view.spawn(other).is_none(), "no subscriber needs it");
    view.apply(&launching(12, watched), None, Watched::Yes);
    assert!(view.spawn(watched).is_some());
    assert!(!view.covers(&Need::Of(a.clone())) && view.covers(&Need::Nothing));
    assert_eq!(view.uncovered([&a, &b].into_iter(), 1), std::slice::from_ref(&a));
    // Read as of some event up to 15, while those after 12 happened.
    let records = [(read, SpawnState::Launching), (ended, SpawnState::Ready)].map(|(id, state)| {
        let mut spawn = view.spawn(watched).unwrap().clone();
        (spawn.spawn.id, spawn.spawn.state) = (id, state);
        spawn
    });
    let since = [launching(13, new), event(14, EventKind::SpawnExited, Some(ended), json!({}))].map(Arc::new);
    view.seq = 14;
    view.cover(std::slice::from_ref(&a), records.into(), 15, &since);
    assert!(!view.covers(&Need::Of(a.clone())), "event 15 is not here yet");
    assert!(view.uncovered([&a].into_iter(), 1).is_empty(), "it was read");
    view.apply(&event(15, EventKind::SpawnReady, Some(read), json!({})), None, Watched::No);
    assert!(view.covers(&Need::Of(a.clone())) && !view.covers(&Need::All));
    let mut listed: Vec<Value> = snapshot(&view, "spawns?node=a")
        .as_array()
        .unwrap()
        .iter()
        .map(|spawn| spawn["id"].clone())
        .collect();
    listed.sort_by_key(Value::to_string);
    let mut wanted = [read, new, watched].map(|id| json!(id));
    wanted.sort_by_key(Value::to_string);
    assert_eq!(listed, wanted);
    assert_eq!(view.spawn(read).unwrap().spawn.state, SpawnState::Ready);
    // Of all, also of nodes that are met later.
    view.covers_new = true;
    view.cover(std::slice::from_ref(&b), Vec::new(), 15, &[]);
    assert!(view.covers(&Need::All));
    view.apply(&event(16, EventKind::NodeUp, None, json!({})), Some(node("c", 0)), Watched::No);
    assert!(view.covers(&Need::All));
    view.uncover(|node| *node != a, |id| id == watched);
    assert!(view.spawn(watched).is_some() && view.spawn(read).is_none());
    assert!(!view.covers(&Need::All));
}
