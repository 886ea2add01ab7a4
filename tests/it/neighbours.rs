//! Neighbours do not feel each other: whoever stops reading, leaves or floods disturbs nobody else.

use std::time::Duration;

use futures_util::future::join_all;
use hatchery_tests::{AgentPlan, Farm, Look, until};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncReadExt;

/// What anybody's spawn may take meanwhile.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn callers_who_hang_up_while_an_agent_stalls_cost_no_other_a_start() {
    let farm = Farm::builder().agent(AgentPlan::slots(46).ports(48)).start().await;
    // The agent's connection is made.
    let first = farm.door(0).spawned(&json!({})).await;
    farm.agents[0].role.signal(Signal::STOP);
    let stays: Vec<_> =
        (0..6).map(|_| tokio::spawn(farm.door(0).post("/spawn").json(&json!({})).send())).collect();
    let mut leave = Vec::new();
    for _ in 0..60 {
        leave.push(farm.door(0).post("/spawn").json(&json!({})).start().await);
    }
    until("every call is under way", SOON, async || {
        let used = farm.door(0).json("/v1/nodes/node-a").await["slots"]["used"].as_u64().unwrap();
        Look::when(used == 46, || format!("{used} slots"))
    })
    .await;
    drop(leave);
    farm.agents[0].role.signal(Signal::CONT);
    let mut ids = vec![first["id"].as_str().unwrap().to_owned()];
    for answer in join_all(stays).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        ids.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    until("what the others asked for is gone", SOON, async || {
        let count = farm.processes().len();
        Look::when(count == ids.len(), || format!("{count} processes"))
    })
    .await;
    farm.audit().await;
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn readers_of_logs_who_stop_reading_keep_no_other_waiting() {
    let farm = Farm::builder().agent(AgentPlan::slots(4)).start().await;
    let body = json!({"sessionToken": "sim:flood_bytes_per_sec=4000000"});
    let loud = farm.door(0).spawned(&body).await;
    let path = format!("/v1/spawns/{}/log?lines=10000", loud["id"].as_str().unwrap());
    until("there is a log worth reading", SOON, async || {
        let log = farm.door(0).get(&path).send().await;
        Look::when(log.body.len() > 200_000, || format!("{} bytes", log.body.len()))
    })
    .await;
    let mut readers = Vec::new();
    for _ in 0..40 {
        readers.push(farm.door(0).get(&path).start().await);
    }
    for _ in 0..5 {
        let asked = tokio::time::Instant::now();
        let spawn = farm.door(0).spawned(&json!({})).await;
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
        farm.stop([spawn["id"].as_str().unwrap()]).await;
        farm.ends(spawn["id"].as_str().unwrap()).await;
    }
    // They were answered as far as they read.
    let mut some = [0; 16];
    readers[0].read_exact(&mut some).await.unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&some));
    drop(readers);
    farm.stop([loud["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_flood_of_reports_to_an_agent_ends_no_spawn_and_hinders_no_start() {
    let plan = AgentPlan::slots(4).args(&["--ping-interval", "500ms"]);
    let farm = Farm::builder().agent(plan).start().await;
    let lives = farm.door(0).spawned(&json!({})).await;
    let agent = farm.agents[0].liveliness;
    let flood = tokio::spawn(async move {
        for round in 0..60 {
            let path = format!("/liveliness/{}?liveliness=ping", uuid::Uuid::from_u128(round));
            join_all((0..20).map(|_| agent.post(&path).try_send())).await;
        }
    });
    for _ in 0..5 {
        let spawn = farm.door(0).spawned(&json!({})).await;
        farm.stop([spawn["id"].as_str().unwrap()]).await;
    }
    flood.await.unwrap();
    assert_eq!(farm.record(lives["id"].as_str().unwrap()).await["state"], "ready");
    farm.stop([lives["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
