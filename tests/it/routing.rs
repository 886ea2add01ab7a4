//! A spawn goes where it may: renderer, pool, labels, GPUs.

use std::collections::BTreeMap;

use hatchery_tests::{AgentPlan, Farm};
use serde_json::{Value, json};

async fn node_of(farm: &Farm, body: &Value) -> String {
    let answer = farm.door(0).spawned(body).await;
    farm.stop([answer["id"].as_str().unwrap()]).await;
    answer["node"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn pool_and_labels_choose_the_nodes() {
    let plan = |args: &[&str]| AgentPlan::slots(4).args(args);
    let farm = Farm::builder()
        .doors(2)
        .agent(plan(&["--label", "sdk=2025.1", "--label", "zone=a"]))
        .agent(plan(&["--label", "sdk=2025.1,zone=b", "--pool", "big"]))
        .agent(plan(&["--label", "sdk=2024.8"]))
        .start()
        .await;
    for _ in 0..3 {
        for (body, node) in [
            (json!({"labels": {"zone": "a"}}), "node-a"),
            (json!({"labels": {"sdk": "2025.1"}, "pool": "default"}), "node-a"),
            (json!({"labels": {"sdk": "2025.1", "zone": "b"}}), "node-b"),
            (json!({"pool": "big"}), "node-b"),
            (json!({"labels": {"sdk": "2024.8"}}), "node-c"),
        ] {
            assert_eq!(node_of(&farm, &body).await, node, "{body}");
        }
    }
    for body in [
        json!({"labels": {"sdk": "2023.1"}}),
        json!({"labels": {"sdk": "2024.8", "zone": "a"}}),
        json!({"labels": {"rack": "1"}}),
        json!({"labels": {"SDK": "2025.1"}}),
        json!({"pool": "small"}),
        json!({"pool": "big", "labels": {"zone": "a"}}),
    ] {
        farm.door(1).spawn(&body).await.problem(503, "no-matching-node");
    }
    let any = farm.door(0).spawned(&json!({"labels": {}})).await;
    let record = farm.record(any["id"].as_str().unwrap()).await;
    assert!(record["pool"] == "default" || record["pool"] == "big", "{record}");
    farm.stop([any["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_full_matching_node_is_no_capacity_whatever_else_is_free() {
    let farm =
        Farm::builder().agent(AgentPlan::slots(1).args(&["--label", "zone=a"])).agent(AgentPlan::slots(4));
    let farm = farm.start().await;
    let body = json!({"labels": {"zone": "a"}});
    let answer = farm.door(0).spawned(&body).await;
    farm.door(0).spawn(&body).await.problem(503, "no-capacity");
    let record = farm.record(answer["id"].as_str().unwrap()).await;
    assert_eq!(record["labels"], body["labels"]);
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_renderer_is_found_where_it_is_offered() {
    let farm = Farm::builder()
        .agent(AgentPlan::slots(2).args(&["--ssr", "false"]))
        .agent(AgentPlan::slots(2).args(&["--csr", "false"]))
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(node_of(&farm, &json!({"rendererType": "csr"})).await, "node-a");
        assert_eq!(node_of(&farm, &json!({})).await, "node-a");
        assert_eq!(node_of(&farm, &json!({"rendererType": "ssr"})).await, "node-b");
    }
    farm.finish().await;

    let farm = Farm::builder().agent(AgentPlan::slots(2).args(&["--ssr", "false"])).start().await;
    farm.door(0).spawn(&json!({"rendererType": "ssr"})).await.problem(503, "no-matching-node");
    farm.finish().await;
}

#[tokio::test]
async fn gpus_are_shared_evenly_and_never_beyond_their_slots() {
    let farm =
        Farm::builder().agent(AgentPlan::slots(8).args(&["--gpus", "2", "--gpu-slots", "1"])).start().await;
    let ssr = json!({"rendererType": "ssr"});
    let mut ids = Vec::new();
    let mut indexes = Vec::new();
    for _ in 0..2 {
        let id = farm.door(0).spawned(&ssr).await["id"].as_str().unwrap().to_owned();
        let process = farm.process(&id).unwrap();
        let index = process.option("--ssr-gpu-index").unwrap().to_owned();
        assert_eq!(farm.record(&id).await["gpu"].to_string(), index);
        indexes.push(index);
        ids.push(id);
    }
    indexes.sort();
    assert_eq!(indexes, ["0", "1"]);
    farm.door(0).spawn(&ssr).await.problem(503, "no-capacity");
    // What needs no GPU still has room.
    let csr = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    assert_eq!(farm.process(&csr).unwrap().option("--ssr-gpu-index"), None);
    assert!(farm.record(&csr).await.get("gpu").is_none());
    farm.audit().await;
    let node = farm.door(0).json("/v1/nodes/node-a").await;
    let gpu = |index: u32| json!({"index": index, "total": 1, "used": 1});
    assert_eq!(node["gpus"], json!([gpu(0), gpu(1)]));

    // The one that came free is the one that is given out next.
    farm.stop([ids[0].as_str()]).await;
    farm.ends(&ids[0]).await;
    let next = farm.door(0).spawned(&json!({"rendererType": "ssr", "waitSeconds": 5})).await;
    let next = next["id"].as_str().unwrap();
    assert_eq!(farm.record(next).await["gpu"], farm.record(&ids[0]).await["gpu"]);
    farm.stop([next, &ids[1], &csr]).await;
    farm.finish().await;
}

#[tokio::test]
async fn gpus_are_not_oversubscribed_by_many_at_once() {
    let plan = || AgentPlan::slots(8).args(&["--gpus", "2", "--gpu-slots", "2"]);
    let farm = Farm::builder().doors(2).agent(plan()).agent(plan()).start().await;
    let ssr = json!({"rendererType": "ssr"});
    let answers =
        futures_util::future::join_all((0..30).map(|i| farm.door(i % 2).post("/spawn").json(&ssr).send()))
            .await;
    let mut ids = Vec::new();
    for answer in &answers {
        match answer.status {
            200 => ids.push(answer.json()["id"].as_str().unwrap().to_owned()),
            _ => drop(answer.problem(503, "no-capacity")),
        }
    }
    assert_eq!(ids.len(), 8);
    let mut used: BTreeMap<(String, String), u32> = BTreeMap::new();
    for id in &ids {
        let node = farm.record(id).await["node"].as_str().unwrap().to_owned();
        let gpu = farm.process(id).unwrap().option("--ssr-gpu-index").unwrap().to_owned();
        *used.entry((node, gpu)).or_default() += 1;
    }
    assert!(used.len() == 4 && used.values().all(|count| *count == 2), "{used:?}");
    farm.audit().await;
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn pack_fills_a_node_before_it_begins_the_next() {
    let farm = Farm::builder()
        .door_args(&["--placement", "pack"])
        .agent(AgentPlan::slots(3))
        .agent(AgentPlan::slots(3));
    let farm = farm.start().await;
    let mut spawns = Vec::new();
    for _ in 0..6 {
        spawns.push(farm.door(0).spawned(&json!({})).await);
    }
    let nodes: Vec<&str> = spawns.iter().map(|spawn| spawn["node"].as_str().unwrap()).collect();
    assert!(nodes[..3].iter().all(|node| *node == nodes[0]), "{nodes:?}");
    assert!(nodes[3..].iter().all(|node| *node != nodes[0]), "{nodes:?}");
    farm.stop(spawns.iter().map(|spawn| spawn["id"].as_str().unwrap())).await;
    farm.finish().await;
}
