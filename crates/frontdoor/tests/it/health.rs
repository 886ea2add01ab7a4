//! What the farm learns from starts that fail.

use model::HealthState;
use wire::v1;

use crate::fake_agent::{Offer, Script};
use crate::farm::{Farm, config};
use crate::http::{get, spawn};
use crate::redis_server::RedisServer;
use crate::wait::until;

fn license() -> Script {
    let text = Some("invalid license".to_owned());
    Script::Ended(v1::Exit { reason: "failed".into(), code: Some(6), signal: None, text })
}

async fn health(farm: &Farm, agent: usize) -> model::NodeHealth {
    farm.registry.node(&farm.agents[agent].node).await.unwrap().unwrap().health
}

async fn one_sick_node_is_found_and_forgiven(mut farm: Farm) {
    farm.add(Offer { slots: 100, labels: &[] }, Script::Ready).await;
    let mut asked = 0;
    let failing = async || {
        asked += 1;
        let answer = spawn(farm.http, "").await;
        assert_eq!(answer.json()["node"], "node-1", "{answer:?}");
        health(&farm, 0).await
    };
    let sick = until(failing, |health| health.state == HealthState::Failing).await;
    assert!(sick.reason.as_deref().is_some_and(|reason| reason.contains("invalid license")), "{sick:?}");
    let met = farm.agents[0].orders().len();
    for _ in 0..30 {
        assert_eq!(spawn(farm.http, "").await.status, 200);
    }
    assert!(farm.agents[0].orders().len() <= met + 2, "it is probed and not more");

    farm.agents[0].script(Script::Ready);
    until(
        async || {
            let id = spawn(farm.http, "").await.json()["id"].as_str().map(str::to_owned);
            let id = id.expect("a spawn").parse().unwrap();
            farm.agents.iter().for_each(|agent| agent.end(id));
            health(&farm, 0).await.state
        },
        |state| *state == HealthState::Ok,
    )
    .await;
}

#[tokio::test]
async fn a_node_that_fails_is_left_alone_until_probes_succeed_in_the_process() {
    one_sick_node_is_found_and_forgiven(Farm::start(200, &[license()]).await).await;
}

#[tokio::test]
async fn a_node_that_fails_is_left_alone_until_probes_succeed_in_redis() {
    let redis = RedisServer::start().await;
    one_sick_node_is_found_and_forgiven(Farm::over(redis.registry(), config(), 200, &[license()]).await)
        .await;
}

#[tokio::test]
async fn what_fails_on_every_node_is_the_farms_and_the_answer_names_it() {
    let farm = Farm::start(100, &vec![license(); 3]).await;
    let answer = until(
        async || spawn(farm.http, "").await,
        |answer| {
            assert_eq!(answer.code(), "spawn-failed");
            answer.json()["detail"].as_str().unwrap().contains("starts fail on every node")
        },
    )
    .await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("invalid license"), "{answer:?}");
    for agent in 0..3 {
        assert_eq!(health(&farm, agent).await.state, HealthState::Ok, "no node is at fault");
    }
    assert!(get(farm.http, "/v1/nodes").await.body.contains("invalid license"));

    farm.agents.iter().for_each(|agent| agent.script(Script::Ready));
    assert_eq!(spawn(farm.http, "").await.status, 200);
}
