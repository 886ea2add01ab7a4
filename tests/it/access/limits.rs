//! How much a caller may spawn, over all front doors together.

use futures_util::future::join_all;
use hatchery_tests::{AgentPlan, Farm, Look, Response, until, wait::TIMEOUT};
use serde_json::json;

use crate::outage::ready_again;

async fn two_doors(slots: u16) -> Farm {
    Farm::builder().keys().doors(2).agent(AgentPlan::slots(slots)).start().await
}

/// So many requests at once, by turns on both front doors.
async fn crowd(farm: &Farm, credential: &str, count: usize) -> Vec<Response> {
    let ask = |at: usize| farm.door(at % 2).showing(credential).post("/spawn").json(&json!({})).send();
    join_all((0..count).map(|at| Box::pin(ask(at)))).await
}

fn ids(answers: &[Response]) -> Vec<String> {
    let good = answers.iter().filter(|answer| answer.status == 200);
    good.map(|answer| answer.json()["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_caller_has_as_many_spawns_at_once_as_it_may_and_not_one_more() {
    let farm = two_doors(16).await;
    let key = farm.key(&["--scope", "spawn", "--concurrent-spawns", "5"]).await;
    let answers = crowd(&farm, &key, 20).await;
    let running = ids(&answers);
    assert_eq!(running.len(), 5, "{answers:?}");
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        let problem = refused.problem(429, "quota-exceeded");
        assert!(problem.detail.contains('5') && (1..=5).contains(&refused.retry_after()), "{refused:?}");
    }
    // Others are not held up by it, and it goes on when one has ended.
    let other = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let others = other.spawned(&json!({})).await;
    farm.stop([running[0].as_str()]).await;
    farm.ends(&running[0]).await;
    let again = crowd(&farm, &key, 4).await;
    let more = ids(&again);
    assert_eq!(more.len(), 1, "{again:?}");
    let left: Vec<&str> = running[1..].iter().chain(&more).map(String::as_str).collect();
    farm.stop(left).await;
    farm.stop([others["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_owner_with_a_small_limit_does_not_take_the_whole_line() {
    let farm = Farm::builder().keys().agent(AgentPlan::slots(1)).start().await;
    let other = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let held = other.spawned(&json!({})).await;
    let key = farm.key(&["--scope", "spawn", "--concurrent-spawns", "1"]).await;
    let ask = || farm.door(0).showing(&key).post("/spawn").json(&json!({"waitSeconds": 30})).send();
    let (waits, refused) = (ask(), ask());
    let (mut waits, mut refused) = (std::pin::pin!(waits), std::pin::pin!(refused));
    // One of them has the only place that there is for its owner.
    let early =
        tokio::select! { answer = &mut waits => (answer, true), answer = &mut refused => (answer, false) };
    early.0.problem(429, "quota-exceeded");
    farm.stop([held["id"].as_str().unwrap()]).await;
    let answer = if early.1 { refused.await } else { waits.await };
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_caller_starts_as_many_a_minute_as_it_may_and_learns_when_to_come_back() {
    let farm = two_doors(16).await;
    let key = farm.key(&["--scope", "spawn", "--spawns-per-minute", "6"]).await;
    let began = tokio::time::Instant::now();
    let answers = crowd(&farm, &key, 16).await;
    let running = ids(&answers);
    // One more for every ten seconds that it took.
    let most = 6 + usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    assert!((6..=most).contains(&running.len()), "{answers:?}");
    let mut longest = 0;
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.problem(429, "rate-limited");
        longest = longest.max(refused.retry_after());
        assert!((1..=10).contains(&refused.retry_after()), "{refused:?}");
    }
    // What was refused is not counted: the time that was told is the time it takes.
    tokio::time::sleep(std::time::Duration::from_secs(longest)).await;
    let next = crowd(&farm, &key, 1).await;
    assert_eq!(next[0].status, 200, "{next:?}");
    let all: Vec<String> = running.into_iter().chain(ids(&next)).collect();
    farm.stop(all.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_same_key_again_counts_once() {
    let farm = two_doors(4).await;
    let key = farm.key(&["--scope", "spawn", "--spawns-per-minute", "1", "--concurrent-spawns", "1"]).await;
    let keyed = async |door: usize, name: &str| {
        let client = farm.door(door).showing(&key);
        client.post("/spawn").header("idempotency-key", name).json(&json!({})).send().await
    };
    let began = tokio::time::Instant::now();
    let first = keyed(0, "a").await;
    assert_eq!(first.status, 200, "{first:?}");
    for door in [0, 1, 0] {
        assert_eq!(keyed(door, "a").await.json(), first.json());
    }
    // Each time it is told how long it still takes.
    for door in [1, 0, 1] {
        let refused = keyed(door, "b").await;
        refused.problem(429, "rate-limited");
        let least = 58_u64.saturating_sub(began.elapsed().as_secs());
        assert!((least..=60).contains(&refused.retry_after()), "{refused:?}");
    }
    farm.stop([first.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn while_the_registry_is_away_each_front_door_counts_for_itself() {
    let mut farm = two_doors(16).await;
    let key = farm.key(&["--scope", "spawn", "--spawns-per-minute", "3"]).await;
    for door in &farm.doors {
        until("the front door has a snapshot of the farm", TIMEOUT, async || {
            let nodes = door.metrics().await.sum("hatchery_frontdoor_snapshot_nodes");
            Look::when(nodes > 0.0, || format!("{nodes} nodes in it"))
        })
        .await;
    }
    farm.redis.kill();
    let answers = crowd(&farm, &key, 12).await;
    let running = ids(&answers);
    assert_eq!(running.len(), 6, "three at each of two: {answers:?}");
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.problem(429, "rate-limited");
    }
    farm.redis.restart().await;
    ready_again(&farm).await;
    for id in &running {
        until("the spawn is known again", TIMEOUT, async || {
            let answer = farm.door(0).get(&format!("/v1/spawns/{id}")).send().await;
            Look::when(answer.status == 200, || format!("{answer:?}"))
        })
        .await;
    }
    farm.stop(running.iter().map(String::as_str)).await;
    farm.finish().await;
}
