//! One thing at a time goes wrong while many clients are at work.

use std::collections::BTreeSet;
use std::time::Duration;

use hatchery_tests::faults::Incidents;
use hatchery_tests::load::Load;
use hatchery_tests::site::{Site, settle};
use hatchery_tests::{AgentPlan, Farm, Look, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::outage::ready_again;

pub(crate) async fn served_more(load: &Load, more: usize) {
    let before = load.served();
    until(&format!("{more} more are served"), TIMEOUT, async || {
        let now = load.served();
        Look::when(now >= before + more, || format!("{before} before, {now} now"))
    })
    .await;
}

pub(crate) fn running(farm: &Farm) -> BTreeSet<String> {
    farm.processes().iter().filter_map(|process| process.option("--id")).map(str::to_owned).collect()
}

/// A Redis that can be reached knows what ran `before` and still does.
async fn on_record_again(farm: &Farm, before: &BTreeSet<String>) {
    until("what runs is on record", Duration::from_secs(2), async || {
        let mut known = BTreeSet::new();
        for spawn in hatchery_tests::audit::all_spawns(farm.door(1), "").await {
            known.insert(spawn["id"].as_str().unwrap().to_owned());
        }
        let still = running(farm);
        let missing: Vec<_> = before.intersection(&still).filter(|id| !known.contains(*id)).collect();
        Look::when(missing.is_empty(), || format!("{missing:?} of {} are missing", before.len()))
    })
    .await;
}

#[tokio::test]
async fn a_wiped_redis_knows_everything_again_within_two_seconds() {
    let (site, farm) = Site::farm().await;
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), 101, 20.0);
    served_more(&load, 15).await;
    let before = running(&farm);
    assert!(farm.redis.flush().await);
    let wiped = Instant::now();
    on_record_again(&farm, &before).await;
    served_more(&load, 15).await;
    settle(site, farm, load, Incidents { wiped: vec![wiped], ..Incidents::default() }).await;
}

#[tokio::test]
async fn clients_are_served_while_redis_hangs_and_all_is_true_afterwards() {
    let (site, farm) = Site::farm().await;
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), 102, 20.0);
    served_more(&load, 15).await;
    farm.redis.signal(Signal::STOP);
    served_more(&load, 10).await;
    farm.redis.signal(Signal::CONT);
    served_more(&load, 15).await;
    settle(site, farm, load, Incidents::default()).await;
}

#[tokio::test]
async fn clients_are_served_for_a_minute_without_redis_and_no_spawn_is_lost() {
    let (site, mut farm) = Site::farm().await;
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), 104, 8.0);
    served_more(&load, 15).await;
    farm.redis.kill();
    let gone = Instant::now();
    while gone.elapsed() < Duration::from_secs(60) {
        served_more(&load, 20).await;
    }
    let before = running(&farm);
    farm.redis.restart().await;
    let back = Instant::now();
    ready_again(&farm).await;
    on_record_again(&farm, &before).await;
    served_more(&load, 15).await;
    let incidents = Incidents { wiped: vec![gone, back], ..Incidents::default() };
    settle(site, farm, load, incidents).await;
}

#[tokio::test]
async fn an_agent_that_stands_still_for_half_a_minute_among_clients_is_whole_again() {
    let (site, farm) = Site::farm().await;
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), 105, 8.0);
    served_more(&load, 15).await;
    farm.agents[1].role.signal(Signal::STOP);
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(30) {
        served_more(&load, 10).await;
    }
    farm.agents[1].role.signal(Signal::CONT);
    served_more(&load, 15).await;
    settle(site, farm, load, Incidents::default()).await;
}

#[tokio::test]
async fn an_agent_that_is_killed_among_clients_comes_back_with_all_it_had() {
    let (site, mut farm) = Site::farm().await;
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), 103, 20.0);
    served_more(&load, 15).await;
    farm.agents[0].role.kill();
    served_more(&load, 10).await;
    farm.agents[0].restart().await;
    served_more(&load, 15).await;
    settle(site, farm, load, Incidents::default()).await;
}

#[tokio::test]
async fn the_spawns_of_a_node_that_returns_are_as_they_were() {
    let farm = Farm::small(2).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned());
    }
    let mut before = Vec::new();
    for id in &ids {
        before.push(farm.reaches(id, "ready", TIMEOUT).await);
    }
    farm.agents[0].role.signal(Signal::STOP);
    for id in &ids {
        farm.reaches(id, "lost", TIMEOUT).await;
    }
    farm.agents[0].role.signal(Signal::CONT);
    for (id, before) in ids.iter().zip(before) {
        let after = farm.reaches(id, "ready", TIMEOUT).await;
        for member in ["node", "endpoint", "startedAt", "readyAt", "rendererType"] {
            assert_eq!(after[member], before[member], "{member}");
        }
    }
    assert_eq!(farm.audit().await.total(), 2);
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn those_who_wait_are_served_when_a_node_comes_back() {
    let plan = || AgentPlan::slots(2);
    let mut farm = Farm::builder().doors(2).agent(plan()).agent(plan()).start().await;
    farm.agents[1].role.kill();
    until("one node is left", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-b").await;
        Look::when(node["availability"] != "up", || node.to_string())
    })
    .await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned());
    }
    let patient = |i: usize| farm.door(i).post("/spawn").json(&json!({"waitSeconds": 60})).send();
    let waiters = [tokio::spawn(patient(0)), tokio::spawn(patient(1))];
    farm.waiting(2).await;
    farm.agents[1].restart().await;
    let back = Instant::now();
    for waiter in waiters {
        let answer = waiter.await.unwrap();
        assert_eq!((answer.status, &answer.json()["node"]), (200, &json!("node-b")), "{answer:?}");
        ids.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}
