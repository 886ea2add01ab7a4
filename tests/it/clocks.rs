//! Clocks of a farm's machines differ by minutes, and nobody notices.

use std::time::{Duration, SystemTime};

use hatchery_tests::{AgentPlan, Farm, wait::TIMEOUT};
use model::Timestamp;
use serde_json::{Value, json};

/// What is said of the present is true within this much, also on a busy machine.
const NEARLY: Duration = Duration::from_secs(20);

fn time(json: &Value, member: &str) -> SystemTime {
    let time: Timestamp =
        serde_json::from_value(json[member].clone()).unwrap_or_else(|e| panic!("{member} of {json}: {e}"));
    SystemTime::UNIX_EPOCH + Duration::from_millis(time.millis())
}

fn is_nearly(json: &Value, member: &str, expected: SystemTime) {
    let time = time(json, member);
    let off = time.duration_since(expected).unwrap_or_else(|early| early.duration());
    assert!(off < NEARLY, "{member} is off by {off:?}: {json}");
}

/// A right front door and one that is ahead; a node that is behind and one that is ahead.
async fn farm() -> Farm {
    let (behind, ahead) = (AgentPlan::slots(2).clock(-420), AgentPlan::slots(2).clock(300));
    let mut farm = Farm::builder().doors(2).agent(behind).agent(ahead).start().await;
    farm.doors[1].restart_at(240).await;
    farm
}

#[tokio::test]
async fn times_on_record_are_the_registrys_whatever_the_machines_clocks_say() {
    let farm = farm().await;
    let mut ids = Vec::new();
    for i in 0..4 {
        let answer = farm.door(i % 2).spawned(&json!({"waitSeconds": 5})).await;
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    for id in &ids {
        farm.reaches(id, "ready", TIMEOUT).await;
        for door in 0..2 {
            let spawn = farm.door(door).json(&format!("/v1/spawns/{id}")).await;
            let now = SystemTime::now();
            is_nearly(&spawn, "startedAt", now);
            is_nearly(&spawn, "readyAt", now);
            for event in spawn["events"].as_array().unwrap() {
                is_nearly(event, "at", now);
            }
        }
    }
    for door in 0..2 {
        for node in ["node-a", "node-b"] {
            let node = farm.door(door).json(&format!("/v1/nodes/{node}")).await;
            assert_eq!(node["availability"], "up", "{node}");
            is_nearly(&node, "lastHeartbeatAt", SystemTime::now());
        }
    }
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_drains_deadline_is_the_same_for_a_front_door_and_an_agent_whose_clocks_differ() {
    let mut farm = farm().await;
    let (mut on_a, mut others) = (String::new(), Vec::new());
    for _ in 0..2 {
        let answer = farm.door(0).spawned(&json!({})).await;
        let id = answer["id"].as_str().unwrap().to_owned();
        if answer["node"] == "node-a" { on_a = id } else { others.push(id) }
    }
    assert_eq!(others.len(), 1, "equal nodes share");
    let asked = SystemTime::now();
    let answer =
        farm.door(1).post("/v1/nodes/node-a/drain").json(&json!({"deadlineSeconds": 40})).send().await.json();
    is_nearly(&answer, "deadline", asked + Duration::from_secs(40));
    // An agent remembers the deadline over its own end, by a clock that is wrong all the time.
    farm.agents[0].restart().await;
    let node = farm.door(0).json("/v1/nodes/node-a").await;
    is_nearly(&node["drain"], "deadline", asked + Duration::from_secs(40));
    is_nearly(&node["drain"], "startedAt", asked);
    let spawn = farm.door(0).json(&format!("/v1/spawns/{on_a}")).await;
    assert_eq!(spawn["state"], "ready", "minutes have not passed: {spawn}");
    let again = farm.door(1).post("/v1/nodes/node-a/drain").json(&json!({"deadlineSeconds": 1})).send().await;
    assert_eq!(again.status, 200, "{again:?}");
    let ended = farm.reaches(&on_a, "exited", TIMEOUT).await;
    assert_eq!(ended["exit"]["reason"], "drained", "{ended}");
    is_nearly(&ended, "endedAt", SystemTime::now());
    assert_eq!(farm.door(0).post("/v1/nodes/node-a/uncordon").send().await.status, 200);
    farm.stop(others.iter().map(String::as_str)).await;
    farm.finish().await;
}
