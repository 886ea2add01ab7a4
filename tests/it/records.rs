//! What can be read of spawns and nodes, through whatever front door: lists, one by one, history, output; and stopping.

use std::collections::BTreeSet;
use std::fs;

use hatchery_tests::audit::all_spawns;
use hatchery_tests::{AgentPlan, Farm, Look, logs, until, wait::TIMEOUT};
use serde_json::{Value, json};
use uuid::Uuid;

fn id(json: &Value) -> String {
    json["id"].as_str().unwrap_or_else(|| panic!("no id in {json}")).to_owned()
}

/// A time as RFC 3339 in UTC, which sorts as text.
fn time<'a>(json: &'a Value, member: &str) -> &'a str {
    let time = json[member].as_str().unwrap_or_else(|| panic!("no {member} in {json}"));
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert!(shape.starts_with("0000-00-00T00:00:00") && shape.ends_with('Z'), "{member} is {time}");
    time
}

async fn two_doors() -> Farm {
    Farm::builder().doors(2).agent(AgentPlan::slots(6)).agent(AgentPlan::slots(6)).start().await
}

#[tokio::test]
async fn a_record_is_the_same_through_every_front_door() {
    let farm = two_doors().await;
    let answer = farm.door(0).spawned(&json!({"rendererType": "ssr"})).await;
    let id = id(&answer);
    let ready = farm.reaches(&id, "ready", TIMEOUT).await;
    for member in ["id", "endpoint", "node", "rendererType"] {
        assert_eq!(ready[member], answer[member], "{member}");
    }
    assert_eq!((&ready["pool"], ready.get("exit")), (&json!("default"), None));
    assert!(time(&ready, "startedAt") <= time(&ready, "readyAt"), "{ready}");
    assert!(
        ready.get("endedAt").is_none() && ready.get("labels").is_none(),
        "absent values are left out: {ready}"
    );
    let through = async |door: usize| {
        let mut record = farm.door(door).json(&format!("/v1/spawns/{id}")).await;
        // It may be pinged between the two.
        record
            .as_object_mut()
            .unwrap()
            .retain(|member, _| !["lastPingAt", "events"].contains(&member.as_str()));
        record
    };
    assert_eq!(through(0).await, through(1).await);
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_history_has_everything_in_order() {
    let farm = two_doors().await;
    let id = id(&farm.door(0).spawned(&json!({})).await);
    farm.stop([id.as_str()]).await;
    let record = farm.reaches(&id, "exited", TIMEOUT).await;
    let events = record["events"].as_array().unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    let kinds: Vec<&str> = kinds.into_iter().filter(|kind| *kind != "spawn.ping").collect();
    assert_eq!(kinds, ["spawn.launching", "spawn.ready", "spawn.stopping", "spawn.exited"]);
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
    let times: Vec<&str> = events.iter().map(|event| time(event, "at")).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");
    assert!(time(&record, "readyAt") <= time(&record, "endedAt"), "{record}");
    assert_eq!(record["exit"]["reason"], "stopped");
    assert_eq!(
        farm.door(1).json(&format!("/v1/spawns/{id}")).await,
        record,
        "an ended spawn changes no more"
    );
    farm.finish().await;
}

#[tokio::test]
async fn a_list_is_paged_newest_first_and_filtered() {
    let farm = two_doors().await;
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.insert(0, id(&farm.door(number % 2).spawned(&json!({})).await));
    }
    for door in [0, 1] {
        let all: Vec<String> = all_spawns(farm.door(door), "").await.iter().map(id).collect();
        assert_eq!(all, ids, "newest first");
        let mut paged = Vec::new();
        let mut pages = 0;
        let mut path = "/v1/spawns?limit=3".to_owned();
        loop {
            // Each page through another front door than the last.
            let page = farm.door((door + pages) % 2).json(&path).await;
            let spawns = page["spawns"].as_array().unwrap();
            assert!(spawns.len() <= 3, "{page}");
            assert!(spawns.iter().all(|spawn| spawn.get("events").is_none()), "lists go without history");
            paged.extend(spawns.iter().map(id));
            pages += 1;
            let Some(cursor) = page.get("nextCursor") else { break };
            path = format!("/v1/spawns?limit=3&cursor={}", cursor.as_str().unwrap());
        }
        assert_eq!(paged, ids);
        assert_eq!(pages, 3);
    }
    farm.stop(ids[..2].iter().map(String::as_str)).await;
    for id in &ids[..2] {
        farm.ends(id).await;
    }
    let of = async |filter: &str| {
        let spawns = all_spawns(farm.door(1), filter).await;
        spawns.iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(of("&state=exited").await.iter().collect::<BTreeSet<_>>(), ids[..2].iter().collect());
    assert_eq!(of("&state=ready").await, ids[2..]);
    assert_eq!(of("&state=suspect").await, Vec::<String>::new());
    let (a, b) = (of("&node=node-a").await, of("&node=node-b").await);
    assert_eq!(a.len() + b.len(), 7);
    assert!(a.iter().all(|id| !b.contains(id)));
    let both = of("&node=node-a&state=ready").await;
    assert_eq!(both, a.iter().filter(|id| ids[2..].contains(id)).cloned().collect::<Vec<_>>());
    farm.stop(ids[2..].iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn stopping_works_from_anywhere_and_twice() {
    let farm = two_doors().await;
    let id = id(&farm.door(0).spawned(&json!({})).await);
    let path = format!("/v1/spawns/{id}");
    let first = farm.door(1).delete(&path).send().await;
    assert_eq!(first.status, 202, "{first:?}");
    let exit = farm.ends(&id).await;
    assert_eq!((&exit["reason"], &exit["signal"]), (&json!("stopped"), &json!("SIGTERM")), "{exit}");
    for door in [0, 1] {
        let again = farm.door(door).delete(&path).send().await;
        assert_eq!(again.status, 200, "{again:?}");
    }
    farm.door(1).delete(&format!("/v1/spawns/{}", Uuid::nil())).send().await.problem(404, "not-found");
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_can_be_stopped_while_it_starts() {
    let farm = two_doors().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=20000"});
    let caller = tokio::spawn(farm.door(0).post("/spawn").json(&body).send());
    let id = until("it is on record", TIMEOUT, async || {
        match all_spawns(farm.door(1), "&state=launching").await.as_slice() {
            [spawn] => Look::Ready(id(spawn)),
            other => Look::NotYet(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(farm.door(1).delete(&format!("/v1/spawns/{id}")).send().await.status, 202);
    caller.await.unwrap().problem(502, "spawn-failed");
    assert_eq!(farm.ends(&id).await["reason"], "stopped");
    farm.finish().await;
}

#[tokio::test]
async fn the_output_of_a_spawn_can_be_read_while_it_runs_and_after() {
    let farm = two_doors().await;
    let id = id(&farm.door(0).spawned(&json!({})).await);
    let read = async |query: &str| {
        let answer = farm.door(1).get(&format!("/v1/spawns/{id}/log{query}")).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"), "{answer:?}");
        answer.text()
    };
    let all = read("").await;
    assert!(all.contains("listening on port"), "{all}");
    let two = read("?lines=2").await;
    assert_eq!(two.lines().count(), 2, "{two}");
    assert!(all.ends_with(&two), "the last lines are meant: {all:?} {two:?}");
    farm.stop([id.as_str()]).await;
    farm.ends(&id).await;
    assert!(read("").await.contains("listening on port"), "the output outlives the process");
    farm.finish().await;
}

#[tokio::test]
async fn one_request_id_leads_through_all_logs() {
    let farm = two_doors().await;
    let request = "trace-me-4711";
    let answer = farm.door(0).post("/spawn").header("x-request-id", request).json(&json!({})).send().await;
    assert_eq!(answer.header("x-request-id"), Some(request));
    let answer = answer.json();
    let (id, agent) = (id(&answer), farm.agent(answer["node"].as_str().unwrap()));
    let mentions =
        |log: &str| log.lines().filter(|line| line.contains(request)).map(str::to_owned).collect::<Vec<_>>();
    farm.doors[0].role.logs(request).await;
    agent.role.logs_so("both ids", |log| mentions(log).iter().any(|line| line.contains(&id))).await;
    let of_the_spawn = mentions(&fs::read_to_string(agent.output_file(&id)).unwrap());
    assert!(of_the_spawn.iter().any(|line| line.contains(&id)), "{of_the_spawn:?}");
    assert!(mentions(&farm.doors[1].role.log()).is_empty());
    logs::lines("frontdoor-0", &farm.doors[0].role.log());
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_node_says_what_it_offers() {
    let plan = AgentPlan::slots(3).args(&[
        "--label",
        "sdk=2025.1",
        "--pool",
        "big",
        "--gpus",
        "1",
        "--gpu-slots",
        "2",
    ]);
    let farm = Farm::builder().doors(2).agent(plan).start().await;
    let id = id(&farm.door(0).spawned(&json!({"rendererType": "ssr"})).await);
    farm.audit().await;
    let node = farm.door(1).json("/v1/nodes/node-a").await;
    assert_eq!(node["id"], "node-a");
    assert_eq!((&node["eligibility"], &node["availability"]), (&json!("eligible"), &json!("up")));
    assert_eq!(node["slots"], json!({"total": 3, "used": 1}));
    assert_eq!(node["gpus"], json!([{"index": 0, "total": 2, "used": 1}]));
    assert_eq!((&node["pool"], &node["labels"]), (&json!("big"), &json!({"sdk": "2025.1"})));
    assert_eq!(node["endpoint"], "ws://127.0.0.1:{port}");
    assert!(node["advertise"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{node}");
    assert!(Uuid::try_parse(node["epoch"].as_str().unwrap()).is_ok(), "{node}");
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    assert!((0.0..=1.0).contains(&node["load"]["cpu"].as_f64().unwrap()), "{node}");
    assert!(node["load"]["memoryFreeBytes"].as_u64().unwrap() > 0, "{node}");
    time(&node, "lastHeartbeatAt");
    assert!(node.get("drain").is_none(), "{node}");
    let list = farm.door(0).json("/v1/nodes").await;
    assert_eq!(list["nodes"].as_array().unwrap().len(), 1);
    let first = time(&node, "lastHeartbeatAt").to_owned();
    until("a heartbeat comes", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        Look::when(*time(&node, "lastHeartbeatAt") > *first, || node.to_string())
    })
    .await;
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}
