//! A node whose relay goes away for longer.

use hatchery_tests::node_relay::NodeRelayPorts;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Certs, Farm, Look, until};
use serde_json::json;

use crate::tls::words;

#[tokio::test]
async fn a_node_whose_relay_has_gone_gets_no_spawns_until_it_is_back() {
    let certs = Certs::two_agents(&["--relay", "node-a=127.0.0.1", "--relay", "node-b=127.0.0.1"]);
    let ports = NodeRelayPorts::take();
    let flags = [certs.agent("node-a"), vec!["--viewer-relay".to_owned(), ports.address()]].concat();
    let door = certs.door("door");
    let door = [&["--public-url", "http://viewers.example.com"], &words(&door)[..]].concat();
    let other = certs.agent("node-b");
    let farm = Farm::builder()
        .door_args(&door)
        .agent(AgentPlan::slots(8).args(&words(&flags)))
        .agent(AgentPlan::slots(8).args(&words(&other)))
        .start()
        .await;
    let mut ids = Vec::new();
    let mut nodes = async |farm: &Farm| {
        let mut nodes = Vec::new();
        for _ in 0..4 {
            let spawned = farm.door(0).spawned(&json!({})).await;
            nodes.push(spawned["node"].as_str().unwrap().to_owned());
            ids.push(spawned["id"].as_str().unwrap().to_owned());
        }
        nodes
    };
    assert!(nodes(&farm).await.contains(&"node-a".to_owned()), "a relay that was never there says nothing");
    let url = farm.redis.url();
    let relay = ports.start(farm.mark(), &certs, "node-a", &["--farm", "test", "--registry", &url]).await;
    farm.agents[0].role.logs("the relay of this node answers").await;
    let ports = relay.stop().await;
    farm.agents[0].role.logs("the relay of this node does not answer").await;
    assert_eq!(nodes(&farm).await, ["node-b"; 4]);
    let refused = farm.agents[0].role.logs("so no viewer could connect").await;
    assert!(refused.contains("cannot-start"), "{refused}");
    let relay = ports.start(farm.mark(), &certs, "node-a", &["--farm", "test", "--registry", &url]).await;
    until("the node gets spawns again", TIMEOUT, async || {
        let spawned = farm.door(0).spawned(&json!({})).await;
        farm.stops_one(spawned["id"].as_str().unwrap()).await;
        Look::when(spawned["node"] == "node-a", || spawned.to_string())
    })
    .await;
    relay.stop().await;
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}
