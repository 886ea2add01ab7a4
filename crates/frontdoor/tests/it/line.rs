//! Waiting for capacity.

use std::net::SocketAddr;

use model::SpawnId;
use serde_json::Value;

use crate::fake_agent::Script;
use crate::farm::{Farm, config};
use crate::http::{Answer, begin, get, send, spawn, spawning};
use crate::wait::until;

const PATIENT: &str = r#"{"waitSeconds":30}"#;

async fn waiting(farm: &Farm, count: usize) {
    waiting_at(farm.front.admin_addr(), count).await;
}

async fn waiting_at(admin: SocketAddr, count: usize) {
    let line = format!("hatchery_frontdoor_waiting {count}\n");
    until(async || get(admin, "/metrics").await.body, |text| text.contains(&line)).await;
}

fn id(answer: &Answer) -> SpawnId {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json().get("id").and_then(Value::as_str).unwrap().parse().unwrap()
}

#[tokio::test]
async fn who_came_first_is_served_first() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let mut current = id(&spawn(farm.http, "").await);
    let mut line = Vec::new();
    for i in 0..8 {
        line.push(spawning(farm.http, PATIENT));
        waiting(&farm, i + 1).await;
    }
    for i in 0..8 {
        farm.agents[0].end(current);
        current = id(&line.remove(0).await.unwrap());
        assert!(line.iter().all(|later| !later.is_finished()), "place {i} was overtaken");
    }
    waiting(&farm, 0).await;
}

#[tokio::test]
async fn the_line_is_one_across_front_doors() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let other = farm.another_front_door().await;
    let mut current = id(&spawn(farm.http, "").await);
    let mut line = Vec::new();
    for i in 0..6 {
        let (http, admin) = if i % 2 == 0 {
            (farm.http, farm.front.admin_addr())
        } else {
            (other.http_addr(), other.admin_addr())
        };
        line.push(spawning(http, PATIENT));
        waiting_at(admin, i / 2 + 1).await;
    }
    for i in 0..6 {
        farm.agents[0].end(current);
        current = id(&line.remove(0).await.unwrap());
        assert!(line.iter().all(|later| !later.is_finished()), "place {i} was overtaken");
    }
}

#[tokio::test]
async fn a_burst_of_freed_slots_serves_as_many_waiters() {
    let farm = Farm::start(10, &[Script::Ready]).await;
    for _ in 0..10 {
        spawn(farm.http, "").await;
    }
    let old = farm.agents[0].running();
    let line: Vec<_> = (0..10).map(|_| spawning(farm.http, PATIENT)).collect();
    waiting(&farm, 10).await;
    old.into_iter().for_each(|id| farm.agents[0].end(id));
    for waiter in line {
        id(&waiter.await.unwrap());
    }
}

#[tokio::test]
async fn waiting_ends_with_waitseconds() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    spawn(farm.http, "").await;
    let began = tokio::time::Instant::now();
    assert_eq!(spawn(farm.http, r#"{"waitSeconds":1}"#).await.code(), "no-capacity");
    assert!((950..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    waiting(&farm, 0).await;
}

#[tokio::test]
async fn a_place_is_lost_with_its_connection() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let current = id(&spawn(farm.http, "").await);
    let impatient = begin(farm.http, &[], PATIENT).await;
    waiting(&farm, 1).await;
    let patient = spawning(farm.http, PATIENT);
    waiting(&farm, 2).await;
    drop(impatient);
    waiting(&farm, 1).await;
    farm.agents[0].end(current);
    id(&patient.await.unwrap());
    assert_eq!(farm.orders(), 2);
}

#[tokio::test]
async fn a_line_that_is_too_long_turns_away_at_once() {
    let mut settings = config();
    settings.max_waiting = 2;
    let farm = Farm::with(settings, 1, &[Script::Ready]).await;
    let current = id(&spawn(farm.http, "").await);
    let line = [spawning(farm.http, PATIENT), spawning(farm.http, PATIENT)];
    waiting(&farm, 2).await;
    let answer = spawn(farm.http, PATIENT).await;
    assert_eq!(answer.code(), "no-capacity");
    assert!(answer.json()["detail"].as_str().unwrap().contains("2 requests wait"));
    farm.agents[0].end(current);
    drop(line);
}

#[tokio::test]
async fn waiting_helps_when_matching_nodes_are_only_cordoned() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let node = farm.agents[0].node.clone();
    farm.registry.set_eligibility(&node, model::Eligibility::Cordoned, None, None).await.unwrap();
    assert_eq!(spawn(farm.http, "").await.code(), "no-matching-node");
    let waiter = spawning(farm.http, PATIENT);
    waiting(&farm, 1).await;
    farm.registry.set_eligibility(&node, model::Eligibility::Eligible, None, None).await.unwrap();
    id(&waiter.await.unwrap());
}

#[tokio::test]
async fn a_node_that_refuses_for_a_while_is_tried_again_by_those_who_wait() {
    let farm = Farm::start(1, &[Script::Refuse(wire::v1::refused::Reason::LowMemory, "")]).await;
    let waiter = spawning(farm.http, PATIENT);
    until(async || farm.orders(), |orders| *orders >= 2).await;
    farm.agents[0].script(Script::Ready);
    id(&waiter.await.unwrap());
    assert!(farm.orders() < 20, "it is not asked in a hurry");
}

#[tokio::test]
async fn a_node_that_says_it_is_full_is_not_asked_in_a_hurry() {
    let farm = Farm::start(5, &[Script::Refuse(wire::v1::refused::Reason::Full, "")]).await;
    let began = tokio::time::Instant::now();
    let answer = spawn(farm.http, r#"{"waitSeconds":2}"#).await;
    assert!(began.elapsed().as_millis() >= 1900, "the caller has time: {:?}", began.elapsed());
    assert_eq!(answer.code(), "no-capacity");
    let attempts = answer.json()["attempts"].clone();
    assert_eq!((&attempts[0]["node"], &attempts[0]["code"]), (&"node-0".into(), &"refused".into()));
    assert!((2..=6).contains(&farm.orders()), "{} orders in two seconds", farm.orders());
}

#[tokio::test]
async fn a_waiter_whose_server_failed_gets_the_next_slot_elsewhere() {
    let exit = wire::v1::Exit { reason: "failed".into(), code: Some(6), ..Default::default() };
    let mut farm = Farm::start(1, &[Script::Ended(exit)]).await;
    farm.add(crate::fake_agent::Offer { slots: 1, labels: &[("well", "yes")] }, Script::Ready).await;
    let current = id(&spawn(farm.http, r#"{"labels":{"well":"yes"}}"#).await);
    // The front door must know that there is a node worth waiting for.
    let line = "hatchery_frontdoor_snapshot_nodes 2\n";
    until(async || get(farm.front.admin_addr(), "/metrics").await.body, |text| text.contains(line)).await;
    let waiter = spawning(farm.http, PATIENT);
    until(async || farm.agents[0].orders().len(), |orders| *orders == 1).await;
    waiting(&farm, 1).await;
    farm.agents[1].end(current);
    assert_eq!(waiter.await.unwrap().json()["node"], "node-1");
    assert_eq!(farm.agents[0].orders().len(), 1);
}

#[tokio::test]
async fn a_slot_that_turns_out_to_be_none_costs_no_caller_its_place() {
    let farm = Farm::start(1, &[Script::Ready, Script::Refuse(wire::v1::refused::Reason::Full, "")]).await;
    until(async || spawn(farm.http, "").await.status, |status| *status == 200).await;
    let mut current = farm.agents[0].running()[0];
    let mut line = Vec::new();
    for i in 0..5 {
        line.push(spawning(farm.http, PATIENT));
        waiting(&farm, i + 1).await;
        let orders = farm.agents[1].orders().len();
        until(async || farm.agents[1].orders().len(), |now| *now > orders + i).await;
    }
    // While one asks the other node, it is not in line: a slot that comes free in this very moment goes to the next. So they ask no more.
    let full = "node-1".parse().unwrap();
    assert_eq!(send(farm.http, "POST", &format!("/v1/nodes/{full}/cordon")).await.status, 200);
    until(async || farm.used(&full).await, |used| *used == 0).await;
    for i in 0..5 {
        waiting(&farm, line.len()).await;
        farm.agents[0].end(current);
        current = id(&line.remove(0).await.unwrap());
        assert!(line.iter().all(|later| !later.is_finished()), "place {i} was overtaken");
    }
}
