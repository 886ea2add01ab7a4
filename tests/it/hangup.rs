//! A client that goes away leaves nothing behind.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, audit::all_spawns, until, wait::TIMEOUT};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// What the contract promises to a client that hung up.
const TEN_SECONDS: Duration = Duration::from_secs(10);

async fn a_process_starts(farm: &Farm) {
    until("a process starts", TIMEOUT, async || {
        Look::when(!farm.processes().is_empty(), || "no process".to_owned())
    })
    .await;
}

async fn nothing_within_ten_seconds(farm: &Farm) {
    until("nothing is left of it", TEN_SECONDS, async || {
        let nodes = farm.door(0).json("/v1/nodes").await;
        let used = nodes["nodes"].as_array().unwrap().iter().map(|n| n["slots"]["used"].as_u64().unwrap());
        let (processes, used) = (farm.processes().len(), used.sum::<u64>());
        Look::when((processes, used) == (0, 0), || format!("{processes} processes, {used} slots"))
    })
    .await;
}

#[tokio::test]
async fn a_client_that_hangs_up_during_a_slow_start_leaves_nothing() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(2)).start().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=20000"});
    let connection = farm.door(0).post("/spawn").json(&body).start().await;
    a_process_starts(&farm).await;
    drop(connection);
    nothing_within_ten_seconds(&farm).await;
    let spawns = all_spawns(farm.door(1), "").await;
    assert_eq!(spawns.len(), 1, "{spawns:?}");
    let exit = farm.ends(spawns[0]["id"].as_str().unwrap()).await;
    assert_eq!(exit["reason"], "cancelled", "{exit}");
    farm.finish().await;
}

#[tokio::test]
async fn many_clients_that_hang_up_at_any_moment_leave_nothing() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(6)).agent(AgentPlan::slots(6)).start().await;
    for round in 0..4_u64 {
        let calls = (0..12).map(|i| {
            let body = json!({"sessionToken": format!("sim:ready_delay_ms={}", i * 10)});
            farm.door(i % 2).post("/spawn").json(&body).start()
        });
        let connections = futures_util::future::join_all(calls).await;
        // Anything between before the reservation and after the answer.
        tokio::time::sleep(Duration::from_millis(round * 25)).await;
        drop(connections);
    }
    // One that was answered before its client went is its client's; the others are nobody's.
    until("only answered spawns are left", TEN_SECONDS, async || {
        let spawns = all_spawns(farm.door(0), "").await;
        let launching =
            spawns.iter().filter(|s| ["launching", "stopping"].iter().any(|state| s["state"] == *state));
        let launching = launching.count();
        Look::when(launching == 0, || format!("{launching} of {} on their way", spawns.len()))
    })
    .await;
    let audit = farm.audit().await;
    for id in audit.spawns.values().flatten() {
        let answer = farm.door(1).delete(&format!("/v1/spawns/{id}")).send().await;
        assert!([200, 202].contains(&answer.status), "{answer:?}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_before_its_request_is_complete_starts_nothing() {
    let farm = Farm::small(2).await;
    let door = farm.door(0);
    let whole = door.post("/spawn").json(&json!({"sessionToken": "x".repeat(100)})).bytes();
    for cut in [1, 10, 40, whole.len() - 60, whole.len() - 1] {
        drop(door.open(&whole[..cut]).await);
    }
    let mut slow = door.open(&whole[..whole.len() - 1]).await;
    slow.shutdown().await.unwrap();
    assert_eq!(all_spawns(door, "").await, Vec::<Value>::new());
    assert!(farm.processes().is_empty());
    drop(slow);
    farm.finish().await;
}

#[tokio::test]
async fn a_place_in_line_goes_to_the_next_when_its_holder_hangs_up() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(1)).start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    let body = json!({"waitSeconds": 30});
    let impatient = farm.door(0).post("/spawn").json(&body).start().await;
    farm.waiting(1).await;
    let patient = tokio::spawn(farm.door(1).post("/spawn").json(&body).send());
    farm.waiting(2).await;
    drop(impatient);
    farm.waiting(1).await;
    farm.stop([first["id"].as_str().unwrap()]).await;
    let answer = patient.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let audit = farm.audit().await;
    assert_eq!(audit.total(), 1);
    farm.stop([answer.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
