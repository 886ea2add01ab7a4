//! The registry's master dies, and Sentinels put its replica in its place, while many clients are at work.

#![expect(clippy::print_stderr, reason = "how long it took is worth knowing also when it was soon enough")]

use std::collections::BTreeSet;
use std::time::Duration;

use hatchery_tests::company::Company;
use hatchery_tests::faults::{Closed, Incidents, ticks};
use hatchery_tests::load::Load;
use hatchery_tests::site::{Site, settle};
use hatchery_tests::{AgentPlan, Farm, Look, until, wait::TIMEOUT};
use serde_json::json;
use tokio::time::Instant;

use crate::under_load::{running, served_more};

/// Every process asks a Sentinel once a second; one may know later than another, and a test machine is slow.
const FOLLOWED: Duration = Duration::from_secs(5);

/// What is missing at a front door until the farm is whole: the registry itself, a node, a spawn of these.
async fn missing(farm: &Farm, door: usize, spawns: &BTreeSet<String>) -> Option<String> {
    let ready = farm.door(door).get("/readyz").send().await;
    let nodes = farm.door(door).get("/v1/nodes").send().await;
    if ready.status != 200 || nodes.status != 200 || ready.json()["status"] != "ready" {
        return Some(format!("{ready:?} {nodes:?}"));
    }
    let nodes = nodes.json();
    let up = |node: &&serde_json::Value| node["availability"] == "up";
    let count = nodes["nodes"].as_array().into_iter().flatten().filter(up).count();
    if count < farm.agents.len() {
        return Some(format!("{nodes}"));
    }
    let records = farm.on_record(farm.door(door)).await;
    let known: BTreeSet<&str> = records.iter().filter_map(|spawn| spawn["id"].as_str()).collect();
    let unknown: Vec<&String> = spawns.iter().filter(|id| !known.contains(id.as_str())).collect();
    (!unknown.is_empty()).then(|| format!("{unknown:?} are not on record"))
}

#[tokio::test]
async fn a_farm_follows_its_registry_to_the_new_master() {
    let (site, mut farm) = Site::with(Farm::builder().sentinels()).await;
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), 104, 20.0);
    served_more(&load, 15).await;

    // What operators want is wanted of the new master, too.
    let mut incidents = Incidents::default();
    for (door, node, order) in [(0, "node-b", "cordon"), (1, "node-c", "drain")] {
        let call = farm.door(door).post(&format!("/v1/nodes/{node}/{order}"));
        let answer = call.json(&json!({})).send().await;
        assert_eq!((answer.status, &answer.json()["agentAcknowledged"]), (200, &json!(true)), "{answer:?}");
        incidents.closed.push(Closed { node: node.to_owned(), from: ticks(), to: u64::MAX });
    }
    let (before, served) = (running(&farm), load.served());
    farm.redis.kill();
    let killed = Instant::now();
    until("the replica is the master", TIMEOUT, async || {
        let promoted = farm.sentinels.as_ref().unwrap().have_promoted().await;
        Look::when(promoted, || "it is a replica".to_owned())
    })
    .await;
    let promoted = Instant::now();
    let meanwhile = load.served() - served;
    for door in 0..farm.doors.len() {
        until("the farm is whole", TIMEOUT, async || {
            // What has ended meanwhile may be on record or not.
            let spawns = before.intersection(&running(&farm)).cloned().collect();
            let missing = missing(&farm, door, &spawns).await;
            Look::when(missing.is_none(), || missing.unwrap_or_default())
        })
        .await;
    }
    eprintln!(
        "promoted after {:?}, whole {:?} later, {meanwhile} served meanwhile",
        promoted - killed,
        promoted.elapsed()
    );
    assert!(meanwhile > 0, "the farm goes on without its registry");
    for (node, eligibility) in [("node-a", "eligible"), ("node-b", "cordoned"), ("node-c", "draining")] {
        let now = farm.door(0).json(&format!("/v1/nodes/{node}")).await;
        assert_eq!(now["eligibility"], eligibility, "{now}");
    }
    served_more(&load, 15).await;
    settle(site, farm, load, incidents).await;
}

#[tokio::test]
async fn a_failover_that_is_ordered_is_followed_before_the_old_master_knows_and_refuses_no_caller() {
    let plan = || AgentPlan::slots(46).ports(48).args(&["--initial-use", "30m"]);
    let doors = ["--live-ping-interval", "10s"];
    let farm = Farm::builder().sentinels().doors(2).door_args(&doors).agent(plan()).agent(plan());
    let farm = farm.start().await;
    let company = Company::of(&farm).await;
    let sentinels = farm.sentinels.as_ref().unwrap();
    assert_eq!(sentinels.order_failover().await.as_deref(), Some("+OK\r\n"));
    until("the replica is the master", TIMEOUT, async || {
        Look::when(sentinels.have_promoted().await, || "it is a replica".to_owned())
    })
    .await;
    let promoted = Instant::now();
    // What goes to the old master now is lost: it becomes a replica of the new one ten seconds later.
    let (port, roles) = (
        format!("\"port\":{}", sentinels.replica.addr().port()),
        [&farm.doors[0].role, &farm.doors[1].role, &farm.agents[0].role, &farm.agents[1].role],
    );
    until("every process is connected to the new master", TIMEOUT, async || {
        let late = roles.iter().find(|role| {
            !role.log().lines().any(|line| line.contains("connected to the registry") && line.contains(&port))
        });
        Look::when(late.is_none(), || format!("{} is not", late.unwrap().name))
    })
    .await;
    assert!(promoted.elapsed() < FOLLOWED, "{:?}", promoted.elapsed());
    let old = farm.redis.says("ROLE").await.unwrap_or_default();
    assert!(old.contains("master"), "it shows nothing: the old master is a replica already: {old}");
    company.all_is_well(&farm, "a failover that was ordered").await;
    farm.finish().await;
}
