//! Disasters that last for minutes, as stories with real processes. `tests/disasters` runs them; shorter ones are in `it/`.
//!
//! `HATCHERY_CYCLES` and `HATCHERY_SEED` say how many spawns callers are given in the long run, and which one it is; `HATCHERY_CONNECTS`
//! how many viewers connect while ports are used again; `HATCHERY_CLAIMS` how many warm servers are claimed; `HATCHERY_LOAD_SECONDS` how long
//! Redis loads its dump.

#![expect(clippy::print_stderr, reason = "how a long story went is worth knowing")]

mod greedy;
mod memory;
mod relayed;
mod strangers;
mod warm;

use std::time::Duration;

use hatchery_tests::company::{Company, farm, through};
use hatchery_tests::faults::{Targets, happen, plan};
use hatchery_tests::load::Load;
use hatchery_tests::moods::Mood;
use hatchery_tests::site::{Site, settle};
use hatchery_tests::wait::{TIMEOUT, longer_than};
use hatchery_tests::{AgentPlan, Farm, Look, until};
use rustix::process::Signal;
use serde_json::{Value, json};

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => default,
    }
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

#[tokio::test]
async fn a_redis_that_stalls_for_ninety_seconds_stops_no_spawn() {
    through(Mood::Stalled, Duration::from_secs(90)).await;
}

#[tokio::test]
async fn a_redis_that_loads_a_large_dump_for_longer_than_makes_a_node_down_stops_no_spawn() {
    let time = Duration::from_secs(setting("HATCHERY_LOAD_SECONDS", 15));
    let mut farm = farm().await;
    let company = Company::at_pace(&farm, time / 40).await;
    farm.redis.loads_for(time).await;
    farm.redis.gets_over(Mood::Loading).await;
    company.all_is_well(&farm, "loading for long").await;
    farm.finish().await;
}

#[tokio::test]
async fn spawning_goes_on_for_ten_minutes_while_redis_takes_no_writes() {
    through(Mood::TooFewReplicas, Duration::from_secs(590)).await;
}

#[tokio::test]
async fn a_redis_that_goes_through_all_its_moods_stops_no_spawn() {
    let mut farm = farm().await;
    let company = Company::at_pace(&farm, Duration::from_millis(1500)).await;
    for mood in Mood::ALL {
        farm.redis.falls_into(mood).await;
        farm.redis.stays_in(mood, Duration::from_secs(5)).await;
        farm.redis.gets_over(mood).await;
        longer_than(Duration::from_secs(4)).await;
    }
    company.all_is_well(&farm, "all moods").await;
    farm.finish().await;
}

#[tokio::test]
async fn a_failover_to_a_replica_that_lagged_loses_neither_viewers_nor_orders() {
    let plan = || AgentPlan::slots(8);
    let mut farm =
        Farm::builder().doors(2).sentinels().agent(plan()).agent(plan()).agent(plan()).start().await;
    let mut watching = Vec::new();
    for _ in 0..3 {
        watching.push(farm.watched().await);
    }
    let order = async |farm: &Farm, node: &str, order: &str| {
        let answer = farm.door(0).post(&format!("/v1/nodes/{node}/{order}")).json(&json!({})).send().await;
        assert_eq!((answer.status, &answer.json()["agentAcknowledged"]), (200, &json!(true)), "{answer:?}");
    };
    order(&farm, "node-a", "cordon").await;
    longer_than(Duration::from_secs(1)).await;
    // What the replica does not hear of: an agent's new life, two orders, and a spawn.
    farm.sentinels.as_ref().unwrap().replica.signal(Signal::STOP);
    farm.agents[1].restart().await;
    order(&farm, "node-a", "uncordon").await;
    order(&farm, "node-c", "cordon").await;
    watching.push(farm.watched().await);
    longer_than(Duration::from_secs(3)).await;
    farm.redis.kill();
    farm.sentinels.as_ref().unwrap().replica.signal(Signal::CONT);
    until("the replica is the master", TIMEOUT * 2, async || {
        let promoted = farm.sentinels.as_ref().unwrap().have_promoted().await;
        Look::when(promoted, || "it is a replica".to_owned())
    })
    .await;
    until("every node is at work as it was ordered", TIMEOUT, async || {
        let answer = farm.door(1).get("/v1/nodes").send().await;
        if answer.status != 200 {
            return Look::NotYet(format!("{answer:?}"));
        }
        let nodes = answer.json();
        let seen: Vec<(&str, &str)> = nodes["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| (text(node, "availability"), text(node, "eligibility")))
            .collect();
        let so = seen == [("up", "eligible"), ("up", "eligible"), ("up", "cordoned")];
        Look::when(so, || format!("{seen:?}"))
    })
    .await;
    for agent in &mut farm.agents {
        assert_eq!(agent.role.exited(), None, "{} lives", agent.node);
    }
    for (id, viewer) in &mut watching {
        farm.reaches(id, "ready", TIMEOUT).await;
        viewer.still_watches().await;
    }
    assert_eq!(farm.audit().await.total(), 4);
    for (id, viewer) in watching {
        viewer.leave().await;
        assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    }
    farm.shut_down().await;
}

#[tokio::test]
async fn an_agent_that_is_stopped_for_forty_seconds_while_spawns_race_loses_no_spawn() {
    let plan = || AgentPlan::slots(12).args(&["--ping-interval", "500ms"]);
    let farm = Farm::builder().doors(2).agent(plan()).agent(plan()).start().await;
    let mut watching = Vec::new();
    for _ in 0..6 {
        watching.push(farm.watched().await);
    }
    for seconds in [2, 12, 40] {
        let racers: Vec<_> =
            (0..8).map(|i| tokio::spawn(farm.door(i % 2).post("/spawn").json(&json!({})).send())).collect();
        farm.agents[0].role.signal(Signal::STOP);
        longer_than(Duration::from_secs(seconds)).await;
        farm.agents[0].role.signal(Signal::CONT);
        let mut ids = Vec::new();
        for racer in racers {
            let answer = racer.await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            ids.push(text(&answer.json(), "id").to_owned());
        }
        for (id, viewer) in &mut watching {
            farm.reaches(id, "ready", TIMEOUT).await;
            viewer.still_watches().await;
        }
        assert_eq!(farm.audit().await.total(), 14);
        farm.stop(ids.iter().map(String::as_str)).await;
        for id in &ids {
            farm.ends(id).await;
        }
    }
    for (id, viewer) in watching {
        viewer.leave().await;
        farm.ends(&id).await;
    }
    farm.finish().await;
}

/// Callers a second in the long run, and slots of each of its three nodes: room for nearly all of them.
const RATE: f64 = 70.0;
const SLOTS: u16 = 120;
/// Things happen for so long at a time; then the farm is healed, so that what is over is over.
const CHAPTER: Duration = Duration::from_secs(20);

#[tokio::test]
async fn many_spawns_through_kills_and_moods_leave_every_counter_where_it_started() {
    let (cycles, seed) = (setting("HATCHERY_CYCLES", 100_000), setting("HATCHERY_SEED", 1));
    let (site, mut farm) = Site::wide(Farm::builder().links(), SLOTS).await;
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), seed, RATE);
    let mut incidents = hatchery_tests::faults::Incidents::default();
    let mut chapter = 0;
    // A cycle is a spawn that a caller was given: who was refused or hung up is none.
    while u64::try_from(load.served()).unwrap() < cycles {
        let steps = plan(seed.wrapping_add(chapter * 1_000_003), Targets::of(&farm).and_moods(), CHAPTER);
        incidents.add(happen(&mut farm, &steps, seed).await);
        chapter += 1;
        let calls = load.notes().calls.len();
        let served = load.served();
        eprintln!("seed {seed}: after chapter {chapter}, {calls} calls, {served} served");
    }
    let verdict = settle(site, farm, load, incidents).await;
    eprintln!("seed {seed}: {verdict:?}");
}

#[tokio::test]
async fn promises_are_kept_through_kills_and_moods_of_other_seeds() {
    let (first, count) = (setting("HATCHERY_SEED", 1), setting("HATCHERY_SEEDS", 10));
    for seed in first..first + count {
        let (site, mut farm) = Site::farm().await;
        let steps = plan(seed, Targets::of(&farm).and_moods(), hatchery_tests::faults::SHORT * 2);
        eprintln!("seed {seed}: {steps:?}");
        let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), seed, 20.0);
        let incidents = happen(&mut farm, &steps, seed).await;
        let verdict = settle(site, farm, load, incidents).await;
        eprintln!("seed {seed}: {verdict:?}");
    }
}
