//! A registry that goes away while the farm is at work, and comes back.

use std::time::Duration;

use frontdoor::Config;
use model::SpawnId;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::fake_agent::{Offer, Script};
use crate::farm::{Farm, config};
use crate::http::{Answer, begin, get, send, spawn, spawn_keyed};
use crate::redis_server::RedisServer;
use crate::wait::until;

/// Enough for an answer that waits for nothing, on a machine that is busy.
const AT_ONCE: Duration = Duration::from_millis(500);

/// A farm over Redis whose front door has all its nodes in the snapshot.
async fn farm(redis: &RedisServer, config: Config, slots: u32, scripts: &[Script]) -> Farm {
    let farm = Farm::over(redis.registry(), config, slots, scripts).await;
    seen(&farm).await;
    farm
}

async fn seen(farm: &Farm) {
    figure(farm, &format!("hatchery_frontdoor_snapshot_nodes {}\n", farm.agents.len())).await;
}

async fn figure(farm: &Farm, line: &str) {
    let admin = farm.front.admin_addr();
    until(async || get(admin, "/metrics").await.body, |text| text.contains(line)).await;
}

async fn away(farm: &Farm) {
    figure(farm, "hatchery_frontdoor_registry_up 0\n").await;
}

async fn back(farm: &Farm) {
    figure(farm, "hatchery_frontdoor_registry_up 1\n").await;
}

async fn at_once(answer: impl Future<Output = Answer>) -> Answer {
    timeout(AT_ONCE, answer).await.expect("an answer at once")
}

fn node_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["node"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn spawns_go_on_from_the_last_snapshot_and_are_all_there_when_the_registry_is_back() {
    let mut redis = RedisServer::start().await;
    let farm = farm(&redis, config(), 4, &[Script::Ready, Script::Ready]).await;
    let before = spawn(farm.http, "").await;
    assert_eq!(before.status, 200);
    redis.kill();

    let mut nodes = Vec::new();
    for _ in 0..7 {
        nodes.push(node_of(&at_once(spawn(farm.http, "")).await));
    }
    assert!(nodes.contains(&"node-0".to_owned()) && nodes.contains(&"node-1".to_owned()), "{nodes:?}");
    let full = at_once(spawn(farm.http, r#"{"waitSeconds":60}"#)).await;
    assert_eq!(full.code(), "no-capacity", "there is no line without the registry");
    let none = at_once(spawn(farm.http, r#"{"pool":"other"}"#)).await;
    assert_eq!(none.code(), "no-matching-node");
    assert_eq!(at_once(spawn(farm.http, "{")).await.code(), "invalid-request");
    away(&farm).await;
    let text = get(farm.front.admin_addr(), "/metrics").await.body;
    assert!(text.contains("hatchery_frontdoor_placements_total{source=\"registry\"} 1\n"), "{text}");

    redis.restart().await;
    back(&farm).await;
    let list = until(
        async || get(farm.http, "/v1/spawns?state=ready").await,
        |answer| answer.status == 200 && answer.json()["spawns"].as_array().unwrap().len() == 8,
    )
    .await
    .json();
    let ids: Vec<&str> =
        list["spawns"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&before.json()["id"].as_str().unwrap()));
    assert_eq!(spawn(farm.http, "").await.code(), "no-capacity", "every slot is known to be taken");
    for id in &ids[..2] {
        assert_eq!(send(farm.http, "DELETE", &format!("/v1/spawns/{id}")).await.status, 202);
    }
    until(async || spawn_keyed(farm.http, "k", "").await.status, |status| *status == 200).await;
}

#[tokio::test]
async fn what_cannot_be_answered_without_the_registry_is_refused_at_once() {
    let mut redis = RedisServer::start().await;
    let farm = farm(&redis, config(), 4, &[Script::Ready]).await;
    redis.kill();
    away(&farm).await;
    let spawn = format!("/v1/spawns/{}", SpawnId::mint());
    let answers = [
        at_once(spawn_keyed(farm.http, "key", "")).await,
        at_once(get(farm.http, "/v1/nodes")).await,
        at_once(get(farm.http, "/v1/nodes/node-0")).await,
        at_once(get(farm.http, "/v1/spawns")).await,
        at_once(get(farm.http, &spawn)).await,
        at_once(send(farm.http, "DELETE", &spawn)).await,
        at_once(get(farm.http, &format!("{spawn}/log"))).await,
        at_once(send(farm.http, "POST", "/v1/nodes/node-0/drain")).await,
        at_once(send(farm.http, "POST", "/v1/nodes/node-0/uncordon")).await,
    ];
    for answer in answers {
        assert_eq!(answer.code(), "registry-unavailable", "{answer:?}");
    }
    assert_eq!(farm.orders(), 0);
    let began = Instant::now();
    farm.front.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_front_door_that_does_without_the_registry_says_so_and_stays_ready() {
    let mut redis = RedisServer::start().await;
    let farm = farm(&redis, config(), 1, &[Script::Ready]).await;
    redis.kill();
    away(&farm).await;
    for address in [farm.http, farm.front.admin_addr()] {
        let answer = at_once(get(address, "/readyz")).await;
        assert_eq!(answer.status, 200);
        let registry = &answer.json()["dependencies"]["registry"];
        assert_eq!((&answer.json()["status"], &registry["state"]), (&json!("degraded"), &json!("away")));
        assert!(registry["since"].is_string() && registry["detail"].is_string(), "{answer:?}");
    }
    redis.restart().await;
    back(&farm).await;
    let ready = get(farm.http, "/readyz").await.json();
    assert_eq!(
        ready,
        json!({"status": "ready", "dependencies": {"registry": {"state": "up", "backend": "redis"}}})
    );
}

#[tokio::test]
async fn a_registry_that_hangs_delays_the_first_calls_only() {
    let redis = RedisServer::start().await;
    let farm = farm(&redis, config(), 9, &[Script::Ready]).await;
    redis.pause();
    let first = timeout(Duration::from_secs(5), spawn(farm.http, "")).await.unwrap();
    assert_eq!(first.status, 200);
    away(&farm).await;
    for _ in 0..3 {
        assert_eq!(at_once(spawn(farm.http, "")).await.status, 200);
    }
    redis.go_on();
    back(&farm).await;
    until(async || farm.used(&farm.agents[0].node).await, |used| *used == 4).await;
}

#[tokio::test]
async fn nodes_that_refuse_or_cannot_be_reached_are_passed_over() {
    let mut redis = RedisServer::start().await;
    let scripts = [Script::Ready, Script::Ready, Script::Ready];
    let mut farm = farm(&redis, config(), 100, &scripts).await;
    redis.kill();
    away(&farm).await;
    farm.agents[0].kill().await;
    farm.agents[1].script(Script::Refuse(wire::v1::refused::Reason::NotEligible, ""));
    for _ in 0..10 {
        assert_eq!(node_of(&spawn(farm.http, "").await), "node-2");
    }
    assert!(farm.agents[1].orders().len() <= 1, "it is not asked again and again");
}

/// The registry is away, and there are two nodes of which the first is chosen, because it is less loaded.
async fn first_before_second(first: Script) -> (RedisServer, Farm) {
    let mut redis = RedisServer::start().await;
    let mut farm = Farm::over(redis.registry(), config(), 10, &[first]).await;
    farm.add(Offer { slots: 10, labels: &[("second", "yes")] }, Script::Ready).await;
    seen(&farm).await;
    redis.kill();
    away(&farm).await;
    assert_eq!(node_of(&spawn(farm.http, r#"{"labels":{"second":"yes"}}"#).await), "node-1");
    (redis, farm)
}

#[tokio::test]
async fn a_lost_answer_is_tried_elsewhere_only_when_the_agent_has_confirmed_its_end() {
    let (_redis, farm) = first_before_second(Script::Lose).await;
    assert_eq!(node_of(&spawn(farm.http, "").await), "node-1");
    let lost: SpawnId = farm.agents[0].orders()[0].request.spawn_id.parse().unwrap();
    assert_eq!(farm.agents[0].stopped(), [(lost, "cancelled".to_owned())]);
    assert!(farm.agents[0].running().is_empty());
}

#[tokio::test]
async fn an_agent_that_vanishes_with_the_answer_is_not_simply_replaced() {
    let (_redis, mut farm) = first_before_second(Script::Die).await;
    let answer = tokio::join!(spawn(farm.http, ""), farm.agents[0].die()).0;
    assert_eq!(answer.code(), "registry-unavailable");
    assert_eq!(farm.agents[1].orders().len(), 1, "nothing but what was there before");
}

#[tokio::test]
async fn a_spawn_that_is_not_ready_in_time_is_ended_without_the_registry() {
    let mut redis = RedisServer::start().await;
    let mut settings = config();
    settings.spawn_deadline = Duration::from_millis(300);
    let farm = farm(&redis, settings, 2, &[Script::Hang]).await;
    redis.kill();
    away(&farm).await;
    assert_eq!(spawn(farm.http, "").await.code(), "ready-timeout");
    until(async || farm.agents[0].running(), Vec::is_empty).await;
}

#[tokio::test]
async fn what_was_held_when_the_registry_went_away_is_given_back_when_it_is_back() {
    let redis = RedisServer::start().await;
    let farm = farm(&redis, config(), 2, &[Script::Hang]).await;
    let node = &farm.agents[0].node;
    let caller = begin(farm.http, &[], "").await;
    until(async || farm.agents[0].running().len(), |running| *running == 1).await;
    redis.pause();
    away(&farm).await;
    drop(caller);
    until(async || farm.agents[0].stopped().len(), |stopped| *stopped == 1).await;
    redis.go_on();
    back(&farm).await;
    until(async || farm.used(node).await, |used| *used == 0).await;
    farm.agents[0].script(Script::Ready);
    for _ in 0..2 {
        assert_eq!(spawn(farm.http, "").await.status, 200);
    }
}

#[tokio::test]
async fn a_place_in_line_outlives_the_registry() {
    let mut redis = RedisServer::start().await;
    let farm = farm(&redis, config(), 1, &[Script::Ready]).await;
    let first = spawn(farm.http, "").await.json();
    let waiting = crate::http::spawning(farm.http, r#"{"waitSeconds":60}"#);
    figure(&farm, "hatchery_frontdoor_waiting 1\n").await;
    redis.kill();
    away(&farm).await;
    redis.restart().await;
    back(&farm).await;
    farm.agents[0].end(first["id"].as_str().unwrap().parse().unwrap());
    let answer = timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_waiter_whose_time_is_over_while_the_registry_is_away_is_placed_from_the_snapshot() {
    let mut redis = RedisServer::start().await;
    let farm = farm(&redis, config(), 1, &[Script::Ready]).await;
    let first = spawn(farm.http, "").await.json();
    let waiting = crate::http::spawning(farm.http, r#"{"waitSeconds":2}"#);
    figure(&farm, "hatchery_frontdoor_waiting 1\n").await;
    redis.kill();
    away(&farm).await;
    farm.agents[0].end(first["id"].as_str().unwrap().parse().unwrap());
    let answer = timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}
