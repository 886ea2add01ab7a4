//! Processes of the farm itself that go away without a word.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, audit::all_spawns, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

#[tokio::test]
async fn a_front_door_that_dies_during_a_slow_start_leaves_nothing() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(2)).start().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=20000"});
    let connection = farm.door(0).post("/spawn").json(&body).start().await;
    until("a process starts", TIMEOUT, async || {
        Look::when(!farm.processes().is_empty(), || "none".to_owned())
    })
    .await;
    farm.doors[0].role.kill();
    until("nothing is left of it", Duration::from_secs(10), async || {
        let node = farm.door(1).json("/v1/nodes/node-a").await;
        let so = farm.processes().is_empty() && node["slots"]["used"] == 0;
        Look::when(so, || format!("{node} {:?}", farm.processes()))
    })
    .await;
    let spawns = all_spawns(farm.door(1), "").await;
    assert_eq!(spawns.len(), 1, "{spawns:?}");
    assert_eq!(spawns[0]["exit"]["reason"], "cancelled", "{spawns:?}");
    drop(connection);
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_that_dies_takes_its_places_in_line_with_it() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(1)).start().await;
    let first = farm.door(1).spawned(&json!({})).await;
    let lost = farm.door(0).post("/spawn").json(&json!({"waitSeconds": 60})).start().await;
    farm.waiting(1).await;
    farm.doors[0].role.kill();
    let patient = tokio::spawn(farm.door(1).post("/spawn").json(&json!({"waitSeconds": 30})).send());
    until("the other waits", TIMEOUT, async || {
        let waiting = farm.doors[1].metrics().await.sum("hatchery_frontdoor_waiting");
        Look::when(waiting > 0.5, || format!("{waiting}"))
    })
    .await;
    let id = first["id"].as_str().unwrap();
    assert_eq!(farm.door(1).delete(&format!("/v1/spawns/{id}")).send().await.status, 202);
    let answer = patient.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(farm.door(1).delete(&format!("/v1/spawns/{id}")).send().await.status, 202);
    drop(lost);
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_that_died_a_moment_ago_costs_no_caller_a_spawn() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(8)).agent(AgentPlan::slots(8)).start().await;
    farm.agent_mut("node-a").role.kill();
    let asked = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..4 {
        let answer = farm.door(0).spawned(&json!({})).await;
        assert_eq!(answer["node"], "node-b");
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    let node = farm.door(0).json("/v1/nodes/node-a").await;
    // Only while its heartbeats still count does this show anything.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}: {node}", asked.elapsed());
    farm.stop(ids.iter().map(String::as_str)).await;
    until("node-a is down", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        Look::when(node["availability"] == "down", || node.to_string())
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn the_spawns_of_a_dead_agent_are_lost_and_no_more_come() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    let id = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    farm.audit().await;
    farm.agent_mut("node-a").role.kill();
    let died = Instant::now();
    until("nothing is placed there any more", Duration::from_secs(8), async || {
        let answer = farm.door(0).spawn(&json!({})).await;
        Look::when(answer.status == 503 && answer.text().contains("no-matching-node"), || {
            format!("{answer:?}")
        })
    })
    .await;
    farm.reaches(&id, "lost", Duration::from_secs(20)).await;
    assert!(died.elapsed() >= Duration::from_secs(8), "after ten seconds without a heartbeat, not before");
    assert!(farm.process(&id).is_some(), "the process itself knows nothing of it");
    farm.shut_down().await;
}

#[tokio::test]
async fn an_agent_that_hangs_is_given_up_in_time_and_leaves_nothing_later() {
    let builder = Farm::builder().door_args(&["--spawn-deadline", "2s"]).agent(AgentPlan::slots(2));
    let farm = builder.start().await;
    farm.agents[0].role.signal(Signal::STOP);
    let asked = Instant::now();
    let answer = farm.door(0).spawn(&json!({})).await;
    let took = asked.elapsed();
    farm.agents[0].role.signal(Signal::CONT);
    assert!(took < Duration::from_secs(8), "{took:?}");
    answer.problem(504, "ready-timeout");
    until("nothing is left of it", Duration::from_secs(10), async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        let so = farm.processes().is_empty() && node["slots"]["used"] == 0;
        Look::when(so, || format!("{node} {:?}", farm.processes()))
    })
    .await;
    let answer = farm.door(0).spawned(&json!({"waitSeconds": 20})).await;
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
