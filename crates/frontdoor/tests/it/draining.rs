//! Opening and closing nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::Timestamp;
use serde_json::{Value, json};
use wire::v1;

use crate::fake_agent::Script;
use crate::farm::Farm;
use crate::http::{Answer, get, raw, request, send, spawn};
use crate::wait::until;

const JSON: (&str, &str) = ("content-type", "application/json");

async fn order(farm: &Farm, path: &str, body: Value) -> Answer {
    raw(farm.http, &request("POST", path, &[JSON], body.to_string().as_bytes())).await
}

fn time(text: &Value) -> Timestamp {
    serde_json::from_value(text.clone()).unwrap()
}

#[tokio::test]
async fn a_node_is_cordoned_drained_and_opened_again() {
    let farm = Farm::start(4, &[Script::Ready]).await;
    assert_eq!(spawn(farm.http, "").await.status, 200);

    let answer = send(farm.http, "POST", "/v1/nodes/node-0/cordon").await;
    let expected =
        json!({"node": "node-0", "eligibility": "cordoned", "remaining": 1, "agentAcknowledged": true});
    assert_eq!((answer.status, answer.json()), (200, expected));
    let refused = spawn(farm.http, "").await;
    assert_eq!(refused.code(), "no-matching-node");

    let wanted = json!({"deadlineSeconds": 600, "reason": "new kernel"});
    let answer = order(&farm, "/v1/nodes/node-0/drain", wanted).await.json();
    assert_eq!((&answer["eligibility"], &answer["remaining"]), (&json!("draining"), &json!(1)));
    let left = time(&answer["deadline"]).since(Timestamp::now());
    assert!(left > Duration::from_secs(590) && left <= Duration::from_secs(601), "{left:?}");
    let node = get(farm.http, "/v1/nodes/node-0").await.json();
    assert_eq!(node["eligibility"], "draining");
    assert_eq!(node["drain"]["deadline"], answer["deadline"]);
    assert_eq!((&node["drain"]["remaining"], &node["drain"]["reason"]), (&json!(1), &json!("new kernel")));
    assert_eq!(node["drain"]["by"], "127.0.0.1");

    let forced = order(&farm, "/v1/nodes/node-0/drain", json!({"force": true})).await.json();
    assert!(time(&forced["deadline"]) < time(&answer["deadline"]), "the later order counts");
    assert!(get(farm.http, "/v1/nodes/node-0").await.json()["drain"].get("reason").is_none());

    let answer = send(farm.http, "POST", "/v1/nodes/node-0/cordon").await.json();
    assert_eq!((&answer["eligibility"], answer.get("deadline")), (&json!("cordoned"), None));
    assert!(get(farm.http, "/v1/nodes/node-0").await.json().get("drain").is_none(), "what runs may stay");

    for _ in 0..2 {
        let answer = send(farm.http, "POST", "/v1/nodes/node-0/uncordon").await.json();
        assert_eq!(answer["eligibility"], "eligible");
    }
    assert_eq!(spawn(farm.http, "").await.status, 200);

    let sent: Vec<_> = farm.agents[0]
        .eligibility_orders()
        .iter()
        .map(|order| (order.eligibility(), order.deadline_ms))
        .collect();
    use v1::Eligibility::{Cordoned, Draining, Eligible};
    let expected = [
        (Cordoned, None),
        (Draining, Some(600_000)),
        (Draining, Some(0)),
        (Cordoned, None),
        (Eligible, None),
        (Eligible, None),
    ];
    assert_eq!(sent, expected);
    assert_eq!(farm.agents[0].eligibility_orders()[1].reason.as_deref(), Some("new kernel"));
    let text = get(farm.front.admin_addr(), "/metrics").await.body;
    let line = "hatchery_frontdoor_operations_total{eligibility=\"draining\",agent=\"acknowledged\"} 2\n";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn an_agent_that_cannot_be_reached_does_not_hold_up_the_order() {
    let mut farm = Farm::start(4, &[Script::Ready]).await;
    farm.agents[0].kill().await;
    let answer = order(&farm, "/v1/nodes/node-0/drain", json!({})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["agentAcknowledged"], false);
    assert_eq!(get(farm.http, "/v1/nodes/node-0").await.json()["eligibility"], "draining");
    assert_eq!(spawn(farm.http, "").await.code(), "no-matching-node");
}

/// The promise: whatever raced, nothing starts on the node after the answer, and no caller notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_one_racing_spawn_starts_after_a_drain_has_answered() {
    let farm = Farm::start(10_000, &[Script::Ready, Script::Ready, Script::Ready]).await;
    let over = Arc::new(AtomicBool::new(false));
    let http = farm.http;
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let mut spawned = 0;
                while !over.load(Ordering::Relaxed) {
                    let answer = spawn(http, "").await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    spawned += 1;
                }
                spawned
            })
        })
        .collect();
    let [drained, other] = [&farm.agents[0], &farm.agents[1]];
    for round in 0..10 {
        let before = drained.admitted().len();
        until(async || drained.admitted().len(), |now| *now >= before + 20).await;
        let answer = order(&farm, "/v1/nodes/node-0/drain", json!({})).await;
        let admitted = drained.admitted();
        assert_eq!(answer.json()["agentAcknowledged"], true, "{answer:?}");
        let elsewhere = other.admitted().len();
        until(async || other.admitted().len(), |now| *now >= elsewhere + 20).await;
        assert_eq!(drained.admitted(), admitted, "round {round}");
        assert_eq!(send(http, "POST", "/v1/nodes/node-0/uncordon").await.status, 200);
    }
    over.store(true, Ordering::Relaxed);
    for racer in racers {
        assert!(racer.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_reservation_that_arrives_after_a_drain_goes_to_another_node_within_its_request() {
    let mut farm = Farm::start(1, &[Script::Ready]).await;
    // The node does not take the spawn although the registry gives it: as if the drain had overtaken the reservation.
    let told = v1::SetEligibilityRequest {
        eligibility: v1::Eligibility::Draining.into(),
        ..v1::SetEligibilityRequest::default()
    };
    farm.agents[0].order_eligibility(told);
    let answer = spawn(farm.http, "").await;
    assert_eq!(answer.code(), "no-capacity");
    assert!(answer.json()["detail"].as_str().unwrap().contains("cordoned or draining"), "{answer:?}");
    farm.empty().await;
    farm.add(crate::fake_agent::Offer { slots: 1, labels: &[] }, Script::Ready).await;
    assert_eq!(spawn(farm.http, "").await.json()["node"], "node-1");
    assert!(farm.agents[0].admitted().is_empty());
}

#[tokio::test]
async fn a_drain_of_a_node_that_is_down_answers_at_once_with_nothing_left() {
    let farm = Farm::start(4, &[Script::Ready]).await;
    assert_eq!(spawn(farm.http, "").await.status, 200);
    farm.agents[0].silence(true);
    until(async || get(farm.http, "/v1/nodes/node-0").await.json()["availability"].clone(), |a| a == "down")
        .await;
    let answer = order(&farm, "/v1/nodes/node-0/drain", json!({"force": true})).await.json();
    assert_eq!((&answer["remaining"], &answer["agentAcknowledged"]), (&json!(0), &json!(false)));
    assert!(
        farm.agents[0].eligibility_orders().is_empty(),
        "what is at the address of a dead node now is left alone"
    );
}

#[tokio::test]
async fn a_drain_that_was_answered_holds_when_the_registry_forgets_it_and_the_agent_never_had_it() {
    let redis = crate::redis_server::RedisServer::start().await;
    let mut farm = Farm::over(redis.registry(), crate::farm::config(), 4, &[Script::Ready]).await;
    farm.agents[0].stand_for("node-9");
    let answer = order(&farm, "/v1/nodes/node-0/drain", json!({})).await.json();
    assert_eq!(answer["agentAcknowledged"], false);
    redis.command(&["flushall"]);
    until(async || farm.registry.nodes().await.unwrap().len(), |nodes| *nodes == 1).await;
    farm.add(crate::fake_agent::Offer { slots: 100, labels: &[] }, Script::Ready).await;
    // The front door has seen what the registry knows now.
    let line = "hatchery_frontdoor_snapshot_nodes 2\n";
    let admin = farm.front.admin_addr();
    until(async || get(admin, "/metrics").await.body, |text| text.contains(line)).await;
    for _ in 0..20 {
        assert_eq!(spawn(farm.http, "").await.json()["node"], "node-1");
    }
    assert!(farm.agents[0].orders().is_empty(), "it is not even asked");
}
