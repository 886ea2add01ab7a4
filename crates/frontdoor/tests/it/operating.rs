//! Looking at spawns and nodes, and stopping spawns.

use model::{ExitReason, SpawnId};
use serde_json::{Value, json};

use crate::fake_agent::Script;
use crate::farm::Farm;
use crate::http::{Answer, get, raw, request, send, spawn};
use crate::wait::until;

fn id(answer: &Answer) -> SpawnId {
    answer.json()["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_spawn_can_be_looked_at_and_stopped() {
    let farm = Farm::start(2, &[Script::Ready]).await;
    let id = id(&spawn(farm.http, "").await);
    let path = format!("/v1/spawns/{id}");
    let spawn = until(
        async || get(farm.http, &path).await,
        |answer| answer.status == 200 && answer.json()["state"] == "ready",
    );
    let spawn = spawn.await.json();
    assert_eq!(spawn["node"], "node-0");
    let kinds: Vec<&Value> = spawn["events"].as_array().unwrap().iter().map(|e| &e["kind"]).collect();
    assert_eq!(kinds, ["spawn.launching", "spawn.ready"]);

    let answer = send(farm.http, "DELETE", &path).await;
    assert_eq!((answer.status, &answer.json()["id"]), (202, &json!(id)));
    assert_eq!(answer.json()["state"], "stopping");
    assert_eq!(farm.agents[0].stopped(), [(id, "stopped".to_owned())]);
    let ended = until(async || send(farm.http, "DELETE", &path).await, |answer| answer.status == 200).await;
    assert_eq!(ended.json()["exit"]["reason"], "stopped");
    let shown = get(farm.http, &path).await.json();
    assert_eq!(shown["endedBy"]["order"], "stop", "{shown}");
    farm.empty().await;
}

#[tokio::test]
async fn a_spawn_that_a_drain_has_ended_names_the_drain_and_no_older_one() {
    let farm = Farm::start(2, &[Script::Ready]).await;
    let (first, second) = (id(&spawn(farm.http, "").await), id(&spawn(farm.http, "").await));
    let drain = async |body: &[u8]| {
        let head = [("content-type", "application/json")];
        let answer = raw(farm.http, &request("POST", "/v1/nodes/node-0/drain", &head, body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let ended = async |id: SpawnId| {
        farm.agents[0].end_as(id, ExitReason::Drained);
        let path = format!("/v1/spawns/{id}");
        until(async || get(farm.http, &path).await.json(), |spawn| spawn["state"] == "exited").await
    };
    drain(br#"{"deadlineSeconds":3600,"reason":"later"}"#).await;
    let spawn = ended(first).await;
    assert_eq!(spawn.get("endedBy"), None, "its deadline has not come: {spawn}");
    drain(br#"{"force":true,"reason":"new kernel"}"#).await;
    let spawn = ended(second).await;
    let by = &spawn["endedBy"];
    assert_eq!((&by["order"], &by["reason"]), (&json!("drain"), &json!("new kernel")), "{spawn}");
}

#[tokio::test]
async fn a_spawn_on_a_node_that_cannot_be_reached_is_stopped_by_its_next_heartbeat() {
    let mut farm = Farm::start(2, &[Script::Ready]).await;
    let id = id(&spawn(farm.http, "").await);
    let path = format!("/v1/spawns/{id}");
    until(async || get(farm.http, &path).await.status, |status| *status == 200).await;
    farm.agents[0].kill().await;
    assert_eq!(send(farm.http, "DELETE", &path).await.status, 202);
    let orders = get(farm.http, "/v1/audit").await.json();
    let order = &orders["audit"][0];
    assert_eq!([&order["order"], &order["outcome"]], ["stop", "unacknowledged"], "{orders}");
    let answer = get(farm.http, &format!("{path}/log")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "node-unreachable"));
    assert_eq!(answer.json()["node"], "node-0");
}

#[tokio::test]
async fn what_is_not_known_is_not_found() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let unknown = SpawnId::mint();
    for (method, path) in [
        ("GET", format!("/v1/spawns/{unknown}")),
        ("DELETE", format!("/v1/spawns/{unknown}")),
        ("GET", format!("/v1/spawns/{unknown}/log")),
        ("GET", "/v1/spawns/not-a-uuid".into()),
        ("DELETE", "/v1/spawns/not-a-uuid".into()),
        ("GET", "/v1/spawns/%zz/log".into()),
        ("GET", "/v1/nodes/node-9".into()),
        ("GET", "/v1/nodes/a%20b".into()),
    ] {
        let answer = send(farm.http, method, &path).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not-found"), "{method} {path}");
    }
}

#[tokio::test]
async fn a_log_is_plain_text() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let id = id(&spawn(farm.http, "").await);
    let path = format!("/v1/spawns/{id}/log");
    let answer = until(async || get(farm.http, &path).await, |answer| answer.status == 200).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.body, "line 0 é\nline 1 é\nline 2 é\n");
    assert_eq!(get(farm.http, &format!("{path}?lines=2")).await.body, "line 0 é\nline 1 é\n");
    farm.agents[0].end(id);
    let answer = get(farm.http, &path).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not-found"), "the agent has forgotten it");
}

#[tokio::test]
async fn spawns_are_listed_in_pages_newest_first() {
    let farm = Farm::start(8, &[Script::Ready]).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let id = id(&spawn(farm.http, "").await);
        until(async || get(farm.http, &format!("/v1/spawns/{id}")).await.status, |status| *status == 200)
            .await;
        ids.insert(0, id.to_string());
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/spawns?limit=2&node=node-0&state=ready".to_owned());
    loop {
        let page = get(farm.http, &path).await.json();
        seen.extend(page["spawns"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/v1/spawns?limit=2&node=node-0&state=ready&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    assert_eq!(get(farm.http, "/v1/spawns?state=lost").await.json(), json!({"spawns": []}));
    assert_eq!(get(farm.http, "/v1/spawns?node=node-7").await.json(), json!({"spawns": []}));
}

#[tokio::test]
async fn nodes_are_listed_and_shown() {
    let farm = Farm::start(3, &[Script::Ready, Script::Ready]).await;
    spawn(farm.http, "").await;
    let nodes = get(farm.http, "/v1/nodes").await.json();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 2);
    let node = get(farm.http, "/v1/nodes/node-1").await.json();
    assert_eq!((&node["id"], &node["eligibility"]), (&json!("node-1"), &json!("eligible")));
    assert_eq!(node["slots"]["total"], 3);
}

#[tokio::test]
async fn probes_answer_on_both_ports_and_metrics_on_one() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    for address in [farm.http, farm.front.admin_addr()] {
        assert_eq!(get(address, "/healthz").await.json(), json!({"status": "ok"}));
        let ready = get(address, "/readyz").await.json();
        assert_eq!(
            ready,
            json!({"status": "ready", "dependencies": {"registry": {"state": "up", "backend": "embedded"}}})
        );
    }
    assert_eq!(get(farm.front.admin_addr(), "/metrics").await.status, 200);
    assert_eq!(get(farm.http, "/metrics").await.code(), "not-found");
    assert_eq!(get(farm.front.admin_addr(), "/v1/nodes").await.code(), "not-found");
}
