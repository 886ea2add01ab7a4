//! Redis has less memory than is written to it, and evicts the farm's keys or refuses writes.

use std::time::Duration;

use hatchery_tests::company::{Company, farm};
use hatchery_tests::http::Client;
use hatchery_tests::pressure::{Evicted, Pressure};
use hatchery_tests::wait::{TIMEOUT, longer_than};
use hatchery_tests::{Farm, Look, Role, role, until};
use rustix::process::Signal;
use serde_json::json;

/// How long there is too little memory.
const TIGHT: Duration = Duration::from_secs(20);

/// A front door that starts meanwhile, and a spawn that it gave.
async fn one_more_door(farm: &Farm) -> (Role, Client, String) {
    let (any, url) = ("127.0.0.1:0", farm.redis.url());
    let args = ["frontdoor", "--listen", any, "--admin-listen", any, "--registry", &url, "--farm", "test"];
    let mut role = Role::start("frontdoor-new", farm.mark(), &args.map(str::to_owned));
    let line = role.announcement().await;
    let door = role::clients(&line)[0];
    let answer = until("the new front door serves", TIMEOUT, async || {
        let answer = door.spawn(&json!({})).await;
        Look::when(answer.status == 200, || format!("{answer:?}")).and(answer)
    })
    .await;
    let id = answer.json()["id"].as_str().expect("the contract has it").to_owned();
    (role, door, id)
}

/// Nobody notices that Redis has this policy and too little memory.
async fn no_caller_notices(policy: &str, starts: bool) -> Evicted {
    let mut farm = farm().await;
    let company = Company::at_pace(&farm, Duration::from_millis(700)).await;
    let pressure = Pressure::on(&farm.redis, policy).await;
    longer_than(TIGHT / 2).await;
    let door = if starts { Some(one_more_door(&farm).await) } else { None };
    longer_than(TIGHT / 2).await;
    let evicted = pressure.ends(&farm.redis).await;
    if let Some((mut role, door, id)) = door {
        until("the new front door is ready", TIMEOUT, async || {
            let ready = door.get("/readyz").send().await;
            Look::when(ready.status == 200 && ready.json()["status"] == "ready", || format!("{ready:?}"))
        })
        .await;
        farm.reaches(&id, "ready", TIMEOUT).await;
        // A node whose record was evicted a moment ago cannot be called, and would end the spawn by its next heartbeat.
        until("every node is known again", TIMEOUT, async || {
            let answer = door.get("/v1/nodes").send().await;
            let nodes = answer.json();
            let up = nodes["nodes"].as_array().map_or(0, |nodes| {
                nodes
                    .iter()
                    .filter(|node| node["availability"] == "up" && node["health"]["state"] == "ok")
                    .count()
            });
            Look::when(answer.status == 200 && up == farm.agents.len(), || nodes.to_string())
        })
        .await;
        farm.stop([id.as_str()]).await;
        farm.ends(&id).await;
        role.signal(Signal::TERM);
        assert!(role.end().await.success());
    }
    for agent in &mut farm.agents {
        assert_eq!(agent.role.exited(), None, "{} lives", agent.node);
        // What answers this has run a script for more than five seconds.
        assert!(!agent.role.log().contains("BUSY"), "{}", agent.node);
    }
    company.all_is_well(&farm, policy).await;
    farm.finish().await;
    evicted
}

#[tokio::test]
async fn a_redis_that_evicts_what_was_not_used_for_longest_stops_no_spawn() {
    let evicted = no_caller_notices("allkeys-lru", true).await;
    assert!(evicted.total > 0 && !evicted.own.is_empty(), "{evicted:?}");
    eprintln!("{} keys were evicted, of the farm: {:?}", evicted.total, evicted.own);
}

#[tokio::test]
async fn a_redis_that_evicts_at_random_stops_no_spawn() {
    let evicted = no_caller_notices("allkeys-random", true).await;
    assert!(evicted.total > 0 && !evicted.own.is_empty(), "{evicted:?}");
    eprintln!("{} keys were evicted, of the farm: {:?}", evicted.total, evicted.own);
}

#[tokio::test]
async fn a_redis_that_evicts_only_what_expires_stops_no_spawn() {
    let evicted = no_caller_notices("volatile-lru", false).await;
    assert!(evicted.total > 0, "{evicted:?}");
}

#[tokio::test]
async fn a_redis_that_is_filled_by_others_and_evicts_nothing_stops_no_spawn() {
    let evicted = no_caller_notices("noeviction", false).await;
    assert_eq!(evicted.total, 0, "{evicted:?}");
}
