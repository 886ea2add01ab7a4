//! A Redis that is there and of no use: it refuses writes, or was wiped a moment ago.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::fake_agent::{FakeAgent, Offer, Script};
use crate::farm::{Farm, TIMING, config};
use crate::http::{get, send, spawn, spawn_keyed};
use crate::redis_server::RedisServer;
use crate::wait::until;

async fn farm(redis: &RedisServer) -> Farm {
    let farm = Farm::over(redis.registry(), config(), 1000, &[Script::Ready, Script::Ready]).await;
    let admin = farm.front.admin_addr();
    let line = "hatchery_frontdoor_snapshot_nodes 2\n";
    until(async || get(admin, "/metrics").await.body, |text| text.contains(line)).await;
    farm
}

/// Spawns for longer than nodes need to be down in the eyes of a registry that gets no heartbeats.
async fn spawns_go_on(farm: &Farm, mood: &str) {
    let end = Instant::now() + TIMING.down * 3;
    while Instant::now() < end {
        let answer = timeout(Duration::from_secs(5), spawn(farm.http, "")).await.expect("an answer");
        assert_eq!(answer.status, 200, "{mood}: {answer:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn spawns_go_on_while_redis_answers_reads_and_refuses_writes() {
    for (mood, begin, end) in [
        (
            "too few replicas",
            ["config", "set", "min-replicas-to-write", "1"],
            ["config", "set", "min-replicas-to-write", "0"],
        ),
        ("no memory", ["config", "set", "maxmemory", "1"], ["config", "set", "maxmemory", "0"]),
        ("a replica", ["replicaof", "127.0.0.1", "1", ""], ["replicaof", "no", "one", ""]),
    ] {
        let redis = RedisServer::start().await;
        let farm = farm(&redis).await;
        let command = |words: [&str; 4]| {
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            redis.command(&words);
        };
        command(begin);
        spawns_go_on(&farm, mood).await;
        let keyed = spawn_keyed(farm.http, "key", "").await;
        assert_eq!(keyed.code(), "registry-unavailable", "{mood}");
        command(end);
        let began = Instant::now();
        until(async || spawn_keyed(farm.http, "key", "").await.status, |status| *status == 200).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{mood}: {:?}", began.elapsed());
    }
}

/// Ended spawns, 3 kB each.
const PAST: &str = "
    local now = redis.call('TIME')[1] * 1000
    for n = 1, 600 do
      redis.call('HSET', '{hatchery:farm}:spawn:past' .. n, 'state', 'exited', 'tags', string.rep('x', 3000))
      redis.call('ZADD', '{hatchery:farm}:ended', now, 'past' .. n)
    end
    return redis.status_reply('OK')";

#[tokio::test]
async fn a_redis_that_is_full_of_the_past_makes_room_by_itself() {
    let redis = RedisServer::start().await;
    let farm = farm(&redis).await;
    let ended = || redis.ask(&["zcard", "{hatchery:farm}:ended"]).trim().parse::<u32>().unwrap();
    redis.command(&["eval", PAST, "0"]);
    assert_eq!(ended(), 600);
    let memory = redis.ask(&["info", "memory"]);
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let less = used.trim().parse::<u64>().unwrap() - 500_000;
    redis.command(&["config", "set", "maxmemory", &less.to_string()]);
    until(async || ended(), |ended| *ended < 600).await;
    until(async || spawn_keyed(farm.http, "key", "").await.status, |status| *status == 200).await;
}

#[tokio::test]
async fn an_order_whose_answer_from_redis_is_missing_is_on_record_as_unknown() {
    let redis = RedisServer::start().await;
    let farm = farm(&redis).await;
    // Redis has the script from then on.
    assert_eq!(send(farm.http, "POST", "/v1/nodes/node-0/uncordon").await.status, 200);
    redis.pause();
    assert_eq!(send(farm.http, "POST", "/v1/nodes/node-0/cordon").await.code(), "registry-unavailable");
    redis.go_on();
    let orders = until(
        async || get(farm.http, "/v1/audit").await,
        |answer| answer.status == 200 && answer.json()["audit"][0]["order"] == "cordon",
    );
    let orders = orders.await.json();
    let order = &orders["audit"][0];
    assert_eq!([&order["outcome"], &order["code"]], ["unknown", "registry-unavailable"], "{orders}");
    // Redis carried it out when it went on.
    let node = until(
        async || get(farm.http, "/v1/nodes/node-0").await,
        |answer| answer.status == 200 && answer.json()["eligibility"] == "cordoned",
    );
    node.await;
}

#[tokio::test]
async fn a_call_right_after_a_wipe_is_placed_from_the_last_snapshot() {
    let redis = RedisServer::start().await;
    let farm = farm(&redis).await;
    for _ in 0..5 {
        // Agents report once a second; here they report when the calls are done.
        farm.agents.iter().for_each(|agent| agent.silence(true));
        redis.command(&["flushall"]);
        for answer in [spawn(farm.http, "").await, spawn_keyed(farm.http, &fresh_key(), "").await] {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        assert_eq!(spawn(farm.http, r#"{"pool":"other"}"#).await.code(), "no-matching-node");
        farm.agents.iter().for_each(|agent| agent.silence(false));
        until(async || farm.registry.nodes().await.unwrap().len(), |nodes| *nodes == 2).await;
    }
}

#[tokio::test]
async fn a_spawn_that_a_wiped_registry_lacks_is_never_said_to_be_missing() {
    let redis = RedisServer::start().await;
    let farm = farm(&redis).await;
    let id = spawn(farm.http, "").await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/spawns/{id}");
    farm.agents.iter().for_each(|agent| agent.silence(true));
    redis.command(&["flushall"]);
    for (method, path) in [("DELETE", path.clone()), ("GET", path.clone()), ("GET", format!("{path}/log"))] {
        let answer = send(farm.http, method, &path).await;
        assert_eq!(
            (answer.status, answer.code()),
            (503, "registry-unavailable".into()),
            "{method} {answer:?}"
        );
        assert!(answer.header("retry-after").is_some(), "{method} {answer:?}");
    }
    farm.agents.iter().for_each(|agent| agent.silence(false));
    until(async || send(farm.http, "GET", &path).await.status, |status| *status != 503).await;
    let stranger = format!("/v1/spawns/{}", fresh_key());
    let answer = until(async || send(farm.http, "GET", &stranger).await, |answer| answer.status != 503).await;
    assert_eq!((answer.status, answer.code()), (404, "not-found".into()), "once every agent has reported");
}

#[tokio::test]
async fn a_node_that_has_other_labels_by_now_is_not_taken_for_one_that_was_wiped() {
    let redis = RedisServer::start().await;
    let mut farm = farm(&redis).await;
    farm.add(Offer { slots: 9, labels: &[("sdk", "1")] }, Script::Ready).await;
    let admin = farm.front.admin_addr();
    let line = "hatchery_frontdoor_snapshot_nodes 3\n";
    until(async || get(admin, "/metrics").await.body, |text| text.contains(line)).await;
    // The snapshot has the old label for up to a second.
    let offer = Offer { slots: 9, labels: &[("sdk", "2")] };
    farm.agents[2] = FakeAgent::start(&farm.registry, "node-2", offer, Script::Ready).await;
    for _ in 0..5 {
        assert_eq!(spawn(farm.http, r#"{"labels":{"sdk":"1"}}"#).await.code(), "no-matching-node");
    }
    assert_eq!(spawn(farm.http, r#"{"labels":{"sdk":"2"}}"#).await.json()["node"], "node-2");
}

#[tokio::test]
async fn calls_with_a_key_work_again_a_second_after_the_last_cut_connection() {
    let redis = RedisServer::start().await;
    let farm = farm(&redis).await;
    assert_eq!(spawn_keyed(farm.http, "same", "").await.status, 200);
    // Calls that start nothing, so that there is always one for a cut to hit.
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (over, http) = (Arc::clone(&over), farm.http);
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    spawn_keyed(http, "same", "").await;
                }
            })
        })
        .collect();
    for _ in 0..60 {
        redis.cut();
        sleep(Duration::from_millis(100)).await;
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(spawn(farm.http, "").await.status, 200);
    let began = Instant::now();
    until(async || spawn_keyed(farm.http, &fresh_key(), "").await.status, |status| *status == 200).await;
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
}

/// A key that was not used before.
fn fresh_key() -> String {
    model::SpawnId::mint().to_string()
}
