//! A Redis whose password or settings are changed while a farm uses it.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, until, wait::TIMEOUT};
use serde_json::{Value, json};

use crate::outage::ready_again;

async fn cut_all(farm: &Farm, first: &str) {
    let said = farm.redis.says(&format!("{first}CLIENT KILL TYPE normal SKIPME yes")).await;
    assert!(said.as_ref().is_some_and(|said| !said.contains("-ERR")), "{said:?}");
}

/// What an agent says of itself, once it says something with these words.
async fn agent_says(farm: &Farm, member: &str, words: &str) -> Value {
    until(&format!("the agent's {member} says {words}"), TIMEOUT, async || {
        let ready = farm.agents[0].admin.get("/readyz").send().await.json();
        if ready[member].to_string().contains(words) {
            Look::Ready(ready)
        } else {
            Look::NotYet(ready.to_string())
        }
    })
    .await
}

async fn door_says(farm: &Farm, words: &str) {
    until(&format!("the front door says {words}"), TIMEOUT, async || {
        let ready = farm.door(0).get("/readyz").send().await;
        Look::when(ready.text().contains(words), || format!("{ready:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_password_that_is_missing_is_said_once_and_shown_until_it_is_right() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    assert_eq!(farm.redis.says("CONFIG SET requirepass secret").await.as_deref(), Some("+OK\r\n"));
    cut_all(&farm, "AUTH secret\r\n").await;
    let ready = agent_says(&farm, "registryDetail", "NOAUTH").await;
    assert_eq!((&ready["registry"], &ready["ready"]), (&json!("away"), &json!(true)), "{ready}");
    door_says(&farm, "NOAUTH").await;
    // Long enough for several tries of both.
    let spawn = farm.door(0).spawned(&json!({})).await;
    for role in [&farm.doors[0].role, &farm.agents[0].role] {
        let log = role.logs("NOAUTH").await;
        assert_eq!(log.matches("connected to the registry").count(), 1, "{log}");
        let said = log.lines().filter(|line| line.contains("cannot connect") && line.contains("NOAUTH"));
        assert_eq!(said.count(), 1, "{log}");
    }
    farm.redis.says("AUTH secret\r\nCONFIG SET requirepass \"\"").await;
    ready_again(&farm).await;
    let ready = agent_says(&farm, "registry", "up").await;
    assert_eq!(ready.get("registryDetail"), None, "{ready}");
    farm.stop([spawn["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_setting_that_is_changed_while_all_are_connected_is_noticed_within_a_minute() {
    let farm = Farm::builder().agent(AgentPlan::slots(1)).start().await;
    farm.redis.says("CONFIG SET maxmemory 1gb").await;
    farm.redis.says("CONFIG SET maxmemory-policy allkeys-lru").await;
    until("the front door has looked again", Duration::from_secs(80), async || {
        let ready = farm.door(0).get("/readyz").send().await;
        Look::when(ready.text().contains("Redis evicts keys"), || format!("{ready:?}"))
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn a_redis_that_evicts_is_warned_of_by_everybody() {
    let farm = Farm::builder().agent(AgentPlan::slots(1)).start().await;
    farm.redis.says("CONFIG SET maxmemory 1gb maxmemory-policy allkeys-lru").await;
    cut_all(&farm, "").await;
    door_says(&farm, "allkeys-lru").await;
    agent_says(&farm, "warnings", "allkeys-lru").await;
    for role in [&farm.doors[0].role, &farm.agents[0].role] {
        let log = role.logs("allkeys-lru").await;
        assert_eq!(log.matches("allkeys-lru").count(), 1, "{log}");
    }
    farm.redis.says("CONFIG SET maxmemory 0").await;
    cut_all(&farm, "").await;
    agent_says(&farm, "warnings", "null").await;
    farm.finish().await;
}
