//! Warm servers in a whole farm: how fast a claim is answered, what a caller sees of it, and agents that are killed around it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use hatchery_tests::{AgentPlan, Farm, Look, Viewer, until, wait::TIMEOUT};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Servers that take 1.5 s to start.
fn slow(slots: u16, warm: &str) -> AgentPlan {
    AgentPlan::slots(slots)
        .args(&["--warm", warm, "--on-shutdown", "kill", "--ping-interval", "500ms"])
        .env("SC_SIM_READY_DELAY_MS", "1500")
}

/// Waits until a node keeps so many, and the farm knows that. The farm alone may know only what was.
async fn kept(farm: &Farm, node: &str, count: u32) {
    until(&format!("{node} keeps {count}"), TIMEOUT, async || {
        let here = farm.agent(node).metrics().await.sum("hatchery_agent_warm_servers_ready");
        let node = farm.door(0).json(&format!("/v1/nodes/{node}")).await;
        let ready: u64 = node["warm"]
            .as_object()
            .map_or(0, |warm| warm.values().filter_map(|warm| warm["ready"].as_u64()).sum());
        let is_known = ready == u64::from(count) && node["availability"] == "up";
        Look::when(is_known && (here - f64::from(count)).abs() < 0.5, || format!("{here} here, {node}"))
    })
    .await;
}

/// The servers that run: the id that each was started with, and its process.
fn servers(farm: &Farm) -> BTreeMap<String, u32> {
    let all = farm.processes().into_iter();
    all.filter_map(|process| Some((process.option("--id")?.to_owned(), process.pid))).collect()
}

/// Closes the node that keeps servers: all end, and the farm is empty.
async fn close(farm: Farm, node: &str) {
    let cordoned = farm.run(&["cordon", node]).await;
    assert_eq!(cordoned.code, 0, "{cordoned:?}");
    until("nothing is kept", TIMEOUT, async || {
        let left = servers(&farm);
        Look::when(left.is_empty(), || format!("{left:?}"))
    })
    .await;
    farm.finish().await;
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

#[tokio::test]
async fn a_request_is_answered_at_once_where_servers_are_kept_and_shows_it() {
    let cold = AgentPlan::slots(4).env("SC_SIM_READY_DELAY_MS", "1500");
    let farm = Farm::builder().agent(cold).agent(slow(4, "csr=2,ssr=1")).start().await;
    kept(&farm, "node-b", 3).await;
    let node = farm.door(0).json("/v1/nodes/node-b").await;
    let ready = |count| json!({"ready": count, "wanted": count});
    assert_eq!(node["warm"], json!({"csr": ready(2), "ssr": ready(1)}));
    assert_eq!(node["slots"], json!({"total": 4, "used": 0}));
    assert!(node["starts"]["limit"].as_u64() > Some(0) && node["starts"]["waiting"] == 0, "{node}");
    assert_eq!(farm.door(0).json("/v1/nodes/node-a").await["warm"], Value::Null);
    let before = servers(&farm);
    let why = farm.door(0).post("/v1/explain").json(&json!({})).send().await.json();
    let words = "0 of 4 slots are in use; 1 more node is as loaded, and this one has a warm server";
    assert_eq!((text(&why, "chosen"), text(&why, "why")), ("node-b", words), "{why}");
    assert_eq!(
        text(&why["nodes"][1], "why"),
        "0 of 4 slots are in use; node-b is as loaded and has a warm server"
    );

    let began = Instant::now();
    let tagged = json!({"tags": {"user": "ann"}, "labels": {}, "maxSeconds": 600});
    let answer = farm.door(0).spawned(&tagged).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(text(&answer, "node"), "node-b", "a node with a warm server is preferred");
    let id = text(&answer, "id");
    let record = farm.record(id).await;
    let server = text(&record, "serverId");
    assert!(record["warm"] == true && server != id && before.contains_key(server), "{record}");
    let kinds: Vec<&str> =
        record["events"].as_array().unwrap().iter().map(|event| text(event, "kind")).collect();
    assert_eq!(kinds, ["spawn.launching", "spawn.ready"]);
    let listed = farm.door(0).json("/v1/spawns?tag=user=ann").await;
    assert_eq!(
        (&listed["spawns"][0]["warm"], &listed["spawns"][0]["serverId"]),
        (&json!(true), &json!(server))
    );
    let shown = farm.run(&["show", id]).await;
    assert!(shown.stdout.contains(server), "{shown:?}");
    let nodes = farm.run(&["nodes", "node-b"]).await;
    assert!(nodes.stdout.contains("/2, ssr 1/1"), "{nodes:?}");
    let log = farm.door(0).get(&format!("/v1/spawns/{id}/log")).send().await;
    assert!(log.status == 200 && log.text().contains(id) && log.text().contains(server), "{log:?}");
    let mut viewer = Viewer::client_side(text(&answer, "endpoint")).await;
    viewer.still_watches().await;
    let record = until("its viewer is known", TIMEOUT, async || {
        let record = farm.record(id).await;
        Look::when(record["viewer"] == "connected", || record.to_string()).and(record)
    })
    .await;
    assert!(record["lastPingAt"].is_string(), "it reports by the id that it was started with");
    viewer.leave().await;
    assert_eq!(farm.ends(id).await["reason"], "disconnected");

    // What is special has a server of its own.
    let special = farm.door(0).spawned(&json!({"sessionToken": "secret"})).await;
    let record = farm.record(text(&special, "id")).await;
    assert_eq!((&record["warm"], &record["serverId"]), (&Value::Null, &Value::Null));
    farm.stops_one(text(&special, "id")).await;
    kept(&farm, "node-b", 3).await;
    close(farm, "node-b").await;
}

#[tokio::test]
async fn an_agent_that_is_killed_leaves_its_warm_servers_to_one_that_would_start_the_same() {
    let mut farm = Farm::builder().agent(slow(6, "csr=2")).start().await;
    kept(&farm, "node-a", 2).await;
    let answer = farm.door(0).spawned(&json!({})).await;
    let mut viewer = Viewer::client_side(text(&answer, "endpoint")).await;
    kept(&farm, "node-a", 2).await;
    let before = servers(&farm);
    assert_eq!(before.len(), 3);
    farm.agents[0].role.kill();
    farm.agents[0].restart().await;
    kept(&farm, "node-a", 2).await;
    assert_eq!(servers(&farm), before);
    viewer.still_watches().await;
    let began = Instant::now();
    let other = farm.door(0).spawned(&json!({})).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(before.contains_key(text(&farm.record(text(&other, "id")).await, "serverId")));
    kept(&farm, "node-a", 2).await;

    farm.agents[0].role.kill();
    let before = servers(&farm);
    farm.agents[0].set("--ping-interval", "600ms");
    farm.agents[0].restart().await;
    let spawns = [&answer, &other].map(|answer| text(answer, "id").to_owned());
    let mut stay = BTreeSet::new();
    for id in &spawns {
        stay.insert(text(&farm.record(id).await, "serverId").to_owned());
    }
    until("others have taken the place of those that were kept", TIMEOUT, async || {
        let now = servers(&farm);
        let old: Vec<&String> = now.keys().filter(|id| before.contains_key(*id)).collect();
        Look::when(now.len() == 4 && old.iter().all(|id| stay.contains(*id)), || format!("{now:?}"))
    })
    .await;
    kept(&farm, "node-a", 2).await;
    viewer.still_watches().await;
    viewer.leave().await;
    assert_eq!(farm.ends(&spawns[0]).await["reason"], "disconnected");
    farm.stops_one(&spawns[1]).await;
    close(farm, "node-a").await;
}

/// Whatever was answered is one server, and what was not is none.
#[tokio::test]
async fn an_agent_that_is_killed_while_servers_are_claimed_doubles_and_loses_none() {
    let mut farm = Farm::builder()
        .agent(AgentPlan::slots(12).ports(40).args(&["--warm", "csr=4", "--on-shutdown", "kill"]))
        .start()
        .await;
    let mut answered = Vec::new();
    for round in 0..6 {
        kept(&farm, "node-a", 4).await;
        let door = farm.door(0);
        let calls = tokio::spawn(join_all(
            (0..4).map(|_| async move { door.post("/spawn").json(&json!({})).send().await }),
        ));
        sleep(Duration::from_millis(round * 2)).await;
        farm.agents[0].role.kill();
        farm.agents[0].restart().await;
        let answers = calls.await.unwrap();
        answered.extend(answers.iter().filter(|answer| answer.status == 200).map(|answer| answer.json()));
        let ids: Vec<String> = answered.iter().map(|answer| text(answer, "id").to_owned()).collect();
        kept(&farm, "node-a", 4).await;
        // As many as were answered, each with a server of its own, beside those that are kept.
        until("each answer has its server", TIMEOUT, async || {
            let (mut own, running) = (BTreeSet::new(), servers(&farm));
            for id in &ids {
                let record = farm.record(id).await;
                let server = record["serverId"].as_str().unwrap_or(id).to_owned();
                if record["state"] != "ready" || !running.contains_key(&server) || !own.insert(server) {
                    return Look::NotYet(record.to_string());
                }
            }
            Look::when(running.len() == ids.len() + 4, || {
                format!("{} of {ids:?}: {running:?}", running.len())
            })
        })
        .await;
        farm.stop(ids.iter().map(String::as_str)).await;
        for id in &ids {
            assert_eq!(farm.ends(id).await["reason"], "stopped");
        }
        answered.clear();
    }
    close(farm, "node-a").await;
}
