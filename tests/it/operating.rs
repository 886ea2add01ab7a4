//! Nodes are closed, emptied and opened while the farm is at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use hatchery_tests::{AgentPlan, Farm, Look, until, wait::TIMEOUT};
use serde_json::{Value, json};

/// Processes that a node's agent has started so far.
async fn started(farm: &Farm, node: &str) -> f64 {
    farm.agent(node).metrics().await.sum("hatchery_agent_spawns_started_total")
}

async fn starts_more(farm: &Farm, node: &str, more: f64) {
    let before = started(farm, node).await;
    until(&format!("{node} starts {more} more"), TIMEOUT, async || {
        let now = started(farm, node).await;
        Look::when(now >= before + more, || format!("{before} before, {now} now"))
    })
    .await;
}

async fn order(farm: &Farm, door: usize, path: &str) -> Value {
    let answer = farm.door(door).post(path).json(&json!({})).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn not_one_spawn_starts_on_a_node_once_its_drain_has_answered() {
    let plan = || AgentPlan::slots(16).ports(24);
    let farm = Arc::new(Farm::builder().doors(2).agent(plan()).agent(plan()).start().await);
    let over = Arc::new(AtomicBool::new(false));
    let racers: Vec<_> = (0..8)
        .map(|i| {
            let (farm, over) = (Arc::clone(&farm), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let answer = farm.door(i % 2).spawned(&json!({"waitSeconds": 30})).await;
                    farm.stop([answer["id"].as_str().unwrap()]).await;
                }
            })
        })
        .collect();
    for round in 0..5 {
        starts_more(&farm, "node-a", 5.0).await;
        let answer = order(&farm, round % 2, "/v1/nodes/node-a/drain").await;
        let at_the_answer = started(&farm, "node-a").await;
        assert_eq!(answer["agentAcknowledged"], true, "{answer}");
        starts_more(&farm, "node-b", 10.0).await;
        let later = started(&farm, "node-a").await;
        assert!(
            (later - at_the_answer).abs() < 0.5,
            "round {round}: {at_the_answer} at the answer, {later} now"
        );
        until("node-a is empty", TIMEOUT, async || {
            let node = farm.door(0).json("/v1/nodes/node-a").await;
            Look::when(node["drain"]["remaining"] == 0, || node.to_string())
        })
        .await;
        order(&farm, (round + 1) % 2, "/v1/nodes/node-a/uncordon").await;
    }
    over.store(true, Ordering::Relaxed);
    for racer in join_all(racers).await {
        racer.unwrap();
    }
    Arc::into_inner(farm).expect("the racers are gone").finish().await;
}
