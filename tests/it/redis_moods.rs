//! Redis is there, but in a bad mood: viewers stay, callers are served, and nobody is told what is not so.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use hatchery_tests::company::{self, BUSY_MACHINE, Company, TRUE_AGAIN};
use hatchery_tests::http::Client;
use hatchery_tests::moods::Mood;
use hatchery_tests::{AgentPlan, Certs, Farm, Look, until};
use serde_json::{Value, json};

/// Longer than it takes to call a node stale.
const A_WHILE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_redis_that_wants_replicas_it_does_not_have_stops_no_spawn() {
    company::through(Mood::TooFewReplicas, A_WHILE).await;
}

#[tokio::test]
async fn a_redis_without_memory_stops_no_spawn() {
    company::through(Mood::OutOfMemory, A_WHILE).await;
}

#[tokio::test]
async fn a_redis_that_was_demoted_stops_no_spawn() {
    company::through(Mood::Demoted, A_WHILE).await;
}

#[tokio::test]
async fn a_redis_that_cannot_save_stops_no_spawn() {
    company::through(Mood::CannotSave, A_WHILE).await;
}

#[tokio::test]
async fn a_redis_that_is_busy_stops_no_spawn() {
    company::through(Mood::Busy, A_WHILE).await;
}

#[tokio::test]
async fn a_redis_that_stalls_stops_no_spawn() {
    // Beyond what makes a node down.
    company::through(Mood::Stalled, Duration::from_secs(14)).await;
}

#[tokio::test]
async fn a_redis_that_loads_its_dump_stops_no_spawn() {
    company::through(Mood::Loading, Duration::ZERO).await;
}

#[tokio::test]
async fn a_redis_that_ends_all_connections_again_and_again_stops_no_spawn() {
    company::through(Mood::CutsConnections, A_WHILE).await;
}

#[tokio::test]
async fn a_redis_that_is_restarted_with_its_data_is_believed_no_more_than_the_agents() {
    let mut farm = company::farm().await;
    let company = Company::at_pace(&farm, Duration::from_millis(500)).await;
    assert!(farm.redis.save().await);
    // What happens now is not in the dump.
    let after = farm.door(0).spawned(&json!({})).await;
    farm.redis.kill();
    hatchery_tests::wait::longer_than(Duration::from_secs(11)).await;
    farm.redis.restart_with_its_dump(&[]).await;
    crate::outage::ready_again(&farm).await;
    let after = after["id"].as_str().unwrap();
    farm.reaches(after, "ready", TRUE_AGAIN + BUSY_MACHINE).await;
    farm.stop([after]).await;
    farm.ends(after).await;
    company.all_is_well(&farm, "restarted with its data").await;
    farm.finish().await;
}

#[tokio::test]
async fn a_redis_that_comes_back_from_an_old_dump_learns_what_it_has_missed() {
    let mut farm = company::farm().await;
    let before = farm.door(0).spawned(&json!({})).await;
    let cordoned =
        farm.door(0).post("/v1/nodes/node-b/drain").json(&json!({"deadlineSeconds": 600})).send().await;
    assert_eq!(cordoned.status, 200, "{cordoned:?}");
    assert!(farm.redis.save().await);
    // The dump knows none of this: a drain is undone, another one is ordered, every agent has a new life, spawns came and went.
    assert_eq!(farm.door(0).post("/v1/nodes/node-b/uncordon").send().await.status, 200);
    for agent in &mut farm.agents {
        agent.restart().await;
    }
    let during = farm.door(1).spawned(&json!({"pool": "default"})).await;
    let drained = farm.door(1).post("/v1/nodes/node-a/cordon").send().await;
    assert_eq!((drained.status, &drained.json()["agentAcknowledged"]), (200, &json!(true)), "{drained:?}");
    farm.redis.kill();
    farm.redis.restart_with_its_dump(&[]).await;
    crate::outage::ready_again(&farm).await;
    until("the registry knows everything", TRUE_AGAIN + BUSY_MACHINE, async || {
        let nodes = farm.door(0).json("/v1/nodes").await;
        let eligibility: Vec<&str> =
            nodes["nodes"].as_array().unwrap().iter().filter_map(|n| n["eligibility"].as_str()).collect();
        let spawns = farm.door(0).json("/v1/spawns?state=ready").await;
        let so = eligibility == ["cordoned", "eligible"] && spawns["spawns"].as_array().unwrap().len() == 2;
        Look::when(so, || format!("{nodes} {spawns}"))
    })
    .await;
    let audit = farm.audit().await;
    assert_eq!(audit.total(), 2, "nothing that lives was ended: {audit:?}");
    for agent in &mut farm.agents {
        assert_eq!(agent.role.exited(), None, "{} lives", agent.node);
    }
    farm.stop([&before, &during].map(|spawn| spawn["id"].as_str().unwrap())).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_redis_that_is_emptied_in_the_middle_of_a_burst_refuses_no_caller() {
    let farm = company::farm().await;
    let company = Company::of(&farm).await;
    for _ in 0..3 {
        assert!(farm.redis.flush().await);
        hatchery_tests::wait::longer_than(Duration::from_millis(700)).await;
    }
    let burst: Vec<_> = (0..20)
        .map(|index| tokio::spawn(farm.door(index % 2).post("/spawn").json(&json!({})).send()))
        .collect();
    assert!(farm.redis.flush().await);
    let mut ids = Vec::new();
    for answer in burst {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        ids.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    farm.audit().await;
    farm.stop(ids.iter().map(String::as_str)).await;
    for id in &ids {
        farm.ends(id).await;
    }
    company.all_is_well(&farm, "emptied in the middle of a burst").await;
    farm.finish().await;
}

#[tokio::test]
async fn a_password_that_is_changed_again_and_again_stops_no_spawn() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "one").unwrap();
    let plan = || AgentPlan::slots(46).ports(48).args(&["--initial-use", "30m"]);
    let doors = ["--live-ping-interval", "10s"];
    let farm = Farm::builder().password_file(&file).doors(2).door_args(&doors).agent(plan()).agent(plan());
    let farm = farm.start().await;
    let company = Company::of(&farm).await;
    for (turn, password) in ["two", "three", "four", "five"].into_iter().enumerate() {
        let cut = async || {
            farm.redis.has_user(password).await;
            farm.redis.says("CLIENT KILL USER farm").await.unwrap();
        };
        if turn % 2 == 0 {
            // The file first: the next connection has the new one.
            std::fs::write(&file, password).unwrap();
            cut().await;
        } else {
            // Redis first: until the file follows, nothing gets in.
            cut().await;
            hatchery_tests::wait::longer_than(Duration::from_secs(4)).await;
            std::fs::write(&file, password).unwrap();
        }
        hatchery_tests::wait::longer_than(Duration::from_secs(1)).await;
    }
    company.all_is_well(&farm, "a password that changes").await;
    farm.finish().await;
}

/// An authority and what it has signed for Redis and its peers, put in the place of another one's.
fn new_authority(dir: &Path) {
    let certs = Certs::new(&["--frontdoor", "door=127.0.0.1"]);
    certs.sign("redis", "IP:127.0.0.1", "serverAuth,clientAuth");
    for file in ["ca.pem", "redis.pem", "redis.key"] {
        let fresh = dir.join(file).with_extension("next");
        std::fs::copy(certs.file(file), &fresh).unwrap();
        std::fs::rename(fresh, dir.join(file)).unwrap();
    }
}

#[tokio::test]
async fn certificates_of_the_registry_that_are_renewed_again_and_again_stop_no_spawn() {
    let directory = tempfile::tempdir().unwrap();
    new_authority(directory.path());
    let plan = || AgentPlan::slots(46).ports(48).args(&["--initial-use", "30m"]);
    let doors = ["--live-ping-interval", "10s"];
    let farm = Farm::builder().registry_certs(directory.path()).doors(2).door_args(&doors);
    let farm = farm.agent(plan()).agent(plan()).start().await;
    let company = Company::of(&farm).await;
    let cut = async || {
        farm.redis.says("CLIENT KILL TYPE normal SKIPME yes").await.unwrap();
    };
    for turn in 0..4 {
        if turn % 2 == 0 {
            // The files first: until Redis reads them, nothing new gets in, and what is connected stays.
            new_authority(directory.path());
            hatchery_tests::wait::longer_than(Duration::from_secs(1)).await;
            farm.redis.speaks_tls(directory.path()).await;
            cut().await;
        } else {
            // All connections are cut between the two: nothing gets in for longer than it takes to call a node stale.
            new_authority(directory.path());
            cut().await;
            hatchery_tests::wait::longer_than(Duration::from_secs(4)).await;
            farm.redis.speaks_tls(directory.path()).await;
        }
        hatchery_tests::wait::longer_than(Duration::from_secs(1)).await;
    }
    company.all_is_well(&farm, "certificates that are renewed").await;
    farm.finish().await;
}

#[tokio::test]
async fn steps_of_the_registrys_clock_lose_no_spawn() {
    let plan = || AgentPlan::slots(46).ports(48).args(&["--initial-use", "30m"]);
    let mut farm = Farm::builder().doors(2).redis_with_a_clock().agent(plan()).agent(plan()).start().await;
    let company = Company::at_pace(&farm, Duration::from_millis(500)).await;
    for step in [90, 0, -90, 3600, 0, -3600] {
        farm.redis.step_clock(step);
        hatchery_tests::wait::longer_than(Duration::from_millis(2500)).await;
    }
    company.all_is_well(&farm, "a clock that is stepped").await;
    // A node that goes is seen to go, whatever the clock said before.
    farm.agents[1].role.kill();
    until("the node is down", Duration::from_secs(20), async || {
        let node = farm.door(0).json("/v1/nodes/node-b").await;
        Look::when(node["availability"] == "down", || node.to_string())
    })
    .await;
    farm.agents[1].restart().await;
    farm.finish().await;
}

#[tokio::test]
async fn single_keys_that_are_lost_come_back_unnoticed() {
    let farm = company::farm().await;
    let company = Company::at_pace(&farm, Duration::from_millis(500)).await;
    let said = farm.redis.says("KEYS *").await.unwrap();
    let keys: Vec<&str> = said.lines().filter(|line| line.starts_with('{')).collect();
    // One of each kind. The registry's contract tests lose every key, and every field of a node.
    let kinds = ["names", "kinds", "kindver", "known:", "members:", "open:", "up", "held:", "node:", "seq"];
    for kind in kinds {
        let is_of = |key: &&&str| key.split_once("}:").is_some_and(|(_, tail)| tail.starts_with(kind));
        let key = keys.iter().find(is_of).unwrap_or_else(|| panic!("no {kind} in {keys:?}"));
        farm.redis.says(&format!("DEL {key}")).await.unwrap();
        // A node whose whole record was lost is back with its next heartbeat.
        hatchery_tests::wait::longer_than(Duration::from_millis(1200)).await;
    }
    until("heartbeats have repaired it all", Duration::from_secs(10), async || {
        let said = farm.redis.says("KEYS *").await.unwrap();
        let missing: Vec<&str> = ["names", "up", "kinds"]
            .into_iter()
            .filter(|name| !said.lines().any(|line| line.ends_with(&format!("}}:{name}"))))
            .collect();
        let nodes = farm.door(0).json("/v1/nodes").await;
        let count = nodes["nodes"].as_array().unwrap().len();
        Look::when(missing.is_empty() && count == 2, || format!("{missing:?} {nodes}"))
    })
    .await;
    company.all_is_well(&farm, "single keys are lost").await;
    farm.finish().await;
}

fn attempts(answer: &Value) -> usize {
    answer["attempts"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_key_is_answered_with_one_spawn_also_when_redis_goes_before_it_is_settled() {
    let mut farm = company::farm().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=1500"});
    let keyed = |door: Client, key: &str| door.post("/spawn").header("idempotency-key", key).json(&body);
    let first: Vec<_> = (0..4)
        .map(|index| tokio::spawn(keyed(farm.door(index % 2), &format!("key-{index}")).send()))
        .collect();
    until("four processes start", Duration::from_secs(10), async || {
        let count = farm.processes().len();
        Look::when(count == 4, || format!("{count} do"))
    })
    .await;
    farm.redis.kill();
    let mut answers = Vec::new();
    for answer in first {
        answers.push(answer.await.unwrap());
    }
    farm.redis.restart().await;
    crate::outage::ready_again(&farm).await;
    let mut ids = BTreeSet::new();
    for (index, first) in answers.iter().enumerate() {
        let again = keyed(farm.door((index + 1) % 2), &format!("key-{index}")).send().await;
        assert_eq!((again.status, attempts(&again.json())), (200, 0), "{again:?}");
        let id = again.json()["id"].as_str().unwrap().to_owned();
        if first.status == 200 {
            assert_eq!(first.json()["id"], id.as_str(), "one key, one spawn");
        } else {
            first.problem(503, "registry-unavailable");
        }
        ids.insert(id);
    }
    until("whoever got an error has nothing left", Duration::from_secs(12), async || {
        let count = farm.processes().len();
        Look::when(count == 4, || format!("{count} processes"))
    })
    .await;
    farm.audit().await;
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}
