//! As many spawns as there are slots, and not one more, however many ask at once.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use hatchery_tests::ports::Block;
use hatchery_tests::{AgentPlan, Farm, Response, Viewer};
use serde_json::{Value, json};

fn eight_slots() -> AgentPlan {
    AgentPlan::slots(8).ports(10)
}

async fn three_nodes() -> Farm {
    let farm = Farm::builder().doors(2).agent(eight_slots()).agent(eight_slots()).agent(eight_slots());
    farm.start().await
}

/// So many at once, alternately through all front doors.
async fn at_once(farm: &Farm, count: usize, body: &Value) -> Vec<Response> {
    let doors = farm.doors.len();
    join_all((0..count).map(|i| farm.door(i % doors).post("/spawn").json(body).send())).await
}

fn word<'a>(json: &'a Value, member: &str) -> &'a str {
    json[member].as_str().unwrap_or_else(|| panic!("no {member} in {json}"))
}

#[tokio::test]
async fn two_hundred_at_once_get_exactly_the_slots_there_are() {
    let farm = three_nodes().await;
    let answers = at_once(&farm, 200, &json!({})).await;

    let (good, bad): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(good.len(), 24, "{bad:?}");
    let refusals: Vec<_> = bad.iter().map(|answer| answer.problem(503, "no-capacity")).collect();
    let requests: BTreeSet<_> = refusals.iter().map(|refusal| refusal.text("requestId").to_owned()).collect();
    assert_eq!(requests.len(), 176, "every request has an id of its own");

    let good: Vec<Value> = good.iter().map(|answer| answer.json()).collect();
    let mut ports: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for answer in &good {
        assert_eq!(answer.as_object().unwrap().len(), 4, "id, endpoint, rendererType, node: {answer}");
        assert_eq!(answer["rendererType"], "csr");
        assert!(ids.insert(word(answer, "id")), "{answer}");
        let port: u16 = word(answer, "endpoint").strip_prefix("ws://127.0.0.1:").unwrap().parse().unwrap();
        let node = word(answer, "node");
        assert!(farm.agent(node).ports.contains(&port), "{answer}");
        assert!(ports.entry(node).or_default().insert(port), "the port comes twice: {answer}");
    }
    assert!(ports.values().all(|ports| ports.len() == 8), "{ports:?}");
    let audit = farm.audit().await;
    assert_eq!(audit.total(), 24);
    assert_eq!(audit.spawns.values().flatten().map(String::as_str).collect::<BTreeSet<_>>(), ids);

    let viewers = join_all(good.iter().map(|answer| Viewer::client_side(word(answer, "endpoint")))).await;
    assert!(viewers.iter().all(|viewer| viewer.protocol().is_none()));
    farm.stop(good.iter().map(|answer| word(answer, "id"))).await;
    farm.finish().await;
}

#[tokio::test]
async fn spawns_at_once_are_spread_evenly() {
    let farm = three_nodes().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=300"});
    let answers = at_once(&farm, 13, &body).await;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for answer in &answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        *counts.entry(word(&answer.json(), "node").to_owned()).or_default() += 1;
    }
    assert_eq!(counts.values().max(), Some(&5), "{counts:?}");
    assert_eq!(counts.values().min(), Some(&4), "{counts:?}");
    farm.audit().await;
    farm.stop(answers.iter().map(Response::json).collect::<Vec<_>>().iter().map(|a| word(a, "id"))).await;
    farm.finish().await;
}

#[tokio::test]
async fn slots_and_ports_come_back_as_often_as_they_are_given_away() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(4).ports(4)).start().await;
    for round in 0..5 {
        let answers = at_once(&farm, 4, &json!({})).await;
        let ids: Vec<String> = answers
            .iter()
            .map(|answer| {
                assert_eq!(answer.status, 200, "round {round}: {answer:?}");
                word(&answer.json(), "id").to_owned()
            })
            .collect();
        at_once(&farm, 1, &json!({})).await[0].problem(503, "no-capacity");
        farm.stop(ids.iter().map(String::as_str)).await;
        farm.assert_empty().await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_port_another_process_listens_on_is_not_given_out() {
    let farm = Farm::builder().agent(AgentPlan::slots(2).ports(4)).start().await;
    let taken: Vec<_> = farm.agents[0]
        .ports
        .clone()
        .take(2)
        .map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap())
        .collect();
    let answers = at_once(&farm, 2, &json!({})).await;
    let answers: Vec<Value> = answers.iter().map(Response::json).collect();
    for answer in &answers {
        let endpoint = word(answer, "endpoint");
        assert!(taken.iter().all(|t| !endpoint.ends_with(&t.local_addr().unwrap().port().to_string())));
        Viewer::client_side(endpoint).await.leave().await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn agents_that_share_one_range_of_ports_never_fail_each_other() {
    let block = Block::take();
    let shared = || AgentPlan::slots(8).port_range(block.range(40));
    let farm = Farm::builder().agent(shared()).agent(shared()).agent(shared()).start().await;
    for round in 0..4 {
        let answers = at_once(&farm, 24, &json!({})).await;
        let answers: Vec<Value> = answers
            .iter()
            .map(|answer| {
                assert_eq!(answer.status, 200, "round {round}: {answer:?}");
                answer.json()
            })
            .collect();
        let endpoints: BTreeSet<_> = answers.iter().map(|answer| word(answer, "endpoint")).collect();
        assert_eq!(endpoints.len(), 24, "{answers:?}");
        farm.audit().await;
        farm.stop(answers.iter().map(|answer| word(answer, "id"))).await;
        farm.assert_empty().await;
    }
    farm.finish().await;
}
