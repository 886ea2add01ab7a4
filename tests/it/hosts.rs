//! A farm on eight hosts: Redis, HAProxy, two front doors, three agents and a client, each with a network of its own.

mod farm;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;

use hatchery_tests::hosts::Network;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{Client, Look, Subscriber, command, until};
use serde_json::json;
use tokio::runtime::Builder;
use tokio::time::Instant;

use self::farm::*;

#[test]
fn a_farm_of_several_hosts_keeps_its_promises_when_one_of_them_is_cut_off() {
    let network = match Network::of(&HOSTS) {
        Ok(network) => network,
        Err(why) => {
            let note = format!("\nskipped: a farm of several hosts: {why}\n");
            std::io::stderr().write_all(note.as_bytes()).unwrap();
            return;
        }
    };
    let names = network.names();
    // The test itself is the client, on a host of its own.
    network.host("client").inside(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story(&network));
    });
    drop(network);
    let left: Vec<_> = names.iter().filter(|name| name.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

async fn story(network: &Network) {
    let mut farm = Farm::on(network);
    let at = |host: &str, port| Client::new(SocketAddr::from((network.host(host).addr, port)));
    let [balancer, door_1, door_2] = [80, 8001, 8002].map(|port| at("balancer", port));
    for door in [balancer, door_1, door_2] {
        sees_up(door, &NODES).await;
    }
    strangers_get_nothing(at("balancer", 81), network).await;

    // Two for each node, by way of the balancer, and viewers straight to the nodes.
    let mut watching = Vec::new();
    for _ in 0..6 {
        watching.push(Watched::through(balancer, network).await);
    }
    let on = |watching: &[Watched], node: &str| watching.iter().filter(|w| w.node == node).count();
    assert_eq!(NODES.map(|node| on(&watching, node)), [2, 2, 2]);
    let (mut spawns, _) = Subscriber::to(balancer.addr, "spawns").await;
    let (mut nodes, _) = Subscriber::to(door_2.addr, "nodes").await;

    // One node is drained: it empties as its viewers leave, and gets nothing meanwhile.
    let ran = command::run(&farm.mark, balancer, &["drain", "node-c", "--deadline", "10m"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for _ in 0..2 {
        watching.push(Watched::through(balancer, network).await);
    }
    assert_eq!(on(&watching, "node-c"), 2, "the two from before");
    let (leaving, staying): (Vec<_>, Vec<_>) = watching.into_iter().partition(|w| w.node == "node-c");
    watching = staying;
    for watched in leaving {
        watched.viewer.leave().await;
    }
    nodes.until("node.drained").await;
    assert_eq!(farm.audit(network, door_1).await.get("node-c"), None);
    let ran = command::run(&farm.mark, balancer, &["uncordon", "node-c"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");

    // Another one is cut off: its servers go on, but nobody can be sent there, and soon nobody is.
    let before = farm.audit(network, door_1).await;
    let cut_off = before["node-b"].clone();
    network.cut("node-b");
    let cut = Instant::now();
    until("nothing is placed there any more", TIMEOUT, async || {
        let node = door_1.json("/v1/nodes/node-b").await;
        Look::when(node["availability"] == "stale", || node.to_string())
    })
    .await;
    assert!(cut.elapsed() < STALE + AIR, "{:?}", cut.elapsed());
    for _ in 0..4 {
        watching.push(Watched::through(balancer, network).await);
        assert_ne!(watching.last().unwrap().node, "node-b");
    }
    let mut lost = BTreeSet::new();
    while lost.len() < cut_off.len() {
        let events = spawns.until("spawn.lost").await;
        let event = events.last().unwrap();
        assert_eq!(event["node"], "node-b", "{event}");
        lost.insert(text(event, "spawn").to_owned());
    }
    nodes.until("node.down").await;
    assert_eq!(lost, cut_off);
    assert!((DOWN - STALE..DOWN + AIR).contains(&cut.elapsed()), "{:?}", cut.elapsed());
    for id in &lost {
        assert_eq!(door_2.json(&format!("/v1/spawns/{id}")).await["state"], "lost");
    }
    assert_eq!(farm.running(network)["node-b"], cut_off, "they know nothing of it");

    // It comes back, with everything as it was, for its viewers too.
    network.heal("node-b");
    nodes.until("node.up").await;
    sees_up(balancer, &NODES).await;
    let after = farm.audit(network, door_2).await;
    assert_eq!(after["node-b"], cut_off);
    for watched in &mut watching {
        watched.looks().await;
        let record = door_2.json(&format!("/v1/spawns/{}", watched.id)).await;
        assert_eq!((&record["state"], text(&record, "node")), (&json!("ready"), watched.node.as_str()));
    }

    // A front door dies, and whoever comes through the balancer does not notice.
    farm.doors.get_mut("door-1").unwrap().kill();
    for _ in 0..4 {
        watching.push(Watched::through(balancer, network).await);
    }
    sees_up(balancer, &NODES).await;

    for watched in watching {
        watched.viewer.leave().await;
    }
    until("nothing is left", TIMEOUT, async || {
        let mut left = farm.running(network).into_values().flatten().collect::<Vec<_>>();
        for node in NODES {
            let slots = door_2.json(&format!("/v1/nodes/{node}")).await["slots"]["used"].clone();
            if slots != 0 {
                left.push(format!("{slots} slots of {node}"));
            }
            let taken = network.host(node).inside(taken_ports);
            left.extend(taken.into_iter().map(|port| format!("port {port} of {node}")));
        }
        Look::when(left.is_empty(), || format!("{left:?}"))
    })
    .await;
    assert_eq!(farm.audit(network, door_2).await, BTreeMap::new());
    farm.finish().await;
}
