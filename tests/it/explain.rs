//! Why a request was refused, why a node is not chosen: in the refusal, by `POST /v1/explain`, and by `hatchery explain`.

use std::time::Duration;

use futures_util::future::join_all;
use hatchery_tests::wait::{TIMEOUT, longer_than};
use hatchery_tests::{AgentPlan, Client, Farm, Look, Response, Subscriber, until};
use serde_json::{Value, json};

/// Six nodes, one for each thing that speaks against a node; the first, `node-a`, is the only one that a request for `sdk=2` gets.
async fn farm() -> Farm {
    let plan = |args: &[&str]| AgentPlan::slots(1).args(args);
    let two = &["--label", "sdk=2"][..];
    let farm = Farm::builder()
        .agent(plan(two))
        .agent(plan(&["--label", "sdk=1"]))
        .agent(plan(two))
        .agent(plan(&["--label", "sdk=2", "--dedicated", "--pool", "next"]))
        .agent(plan(two))
        .agent(plan(&["--label", "sdk=2", "--csr", "false"]))
        .start()
        .await;
    for order in ["/v1/nodes/node-c/cordon", "/v1/nodes/node-e/drain"] {
        assert_eq!(farm.door(0).post(order).send().await.status, 200, "{order}");
    }
    farm
}

fn wanted() -> Value {
    json!({"labels": {"sdk": "2"}})
}

async fn explained(client: Client, body: &Value) -> Value {
    let answer = client.post("/v1/explain").json(body).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn verdict<'a>(explained: &'a Value, node: &str) -> &'a Value {
    let nodes = explained["nodes"].as_array().unwrap();
    nodes.iter().find(|one| one["node"] == node).unwrap_or_else(|| panic!("no {node} in {explained}"))
}

/// The refusal of a spawn.
async fn refused(client: Client, body: &Value, code: &str) -> Value {
    let answer: Response = client.spawn(body).await;
    answer.problem(503, code);
    answer.json()
}

const NOT_CHOSEN: [(&str, u32); 5] =
    [("cordoned", 1), ("dedicated", 1), ("draining", 1), ("label sdk", 1), ("renderer", 1)];

fn reasons(and: &[(&str, u32)]) -> Value {
    NOT_CHOSEN.iter().chain(and).map(|(key, count)| ((*key).to_owned(), json!(count))).collect()
}

#[tokio::test]
async fn every_node_has_a_verdict_and_a_spawn_goes_where_was_said() {
    let farm = farm().await;
    let door = farm.door(0);
    let before = explained(door, &wanted()).await;
    assert_eq!(before["chosen"], "node-a", "{before}");
    assert_eq!((&before["reasons"], &before["source"]), (&reasons(&[]), &json!("registry")));
    assert_eq!((&before["unlisted"], before.get("code")), (&json!(0), None));
    for (node, key, words) in [
        ("node-a", "chosen", "it is the least loaded: 0 of 1 slots are in use"),
        ("node-b", "label sdk", "its label sdk is 1, not 2"),
        ("node-c", "cordoned", "an operator has closed it to new spawns"),
        ("node-d", "dedicated", "its pool, next, is only for requests that name it"),
        ("node-e", "draining", "an operator is emptying it"),
        ("node-f", "renderer", "it does not offer csr"),
    ] {
        let seen = verdict(&before, node);
        assert_eq!((&seen["verdict"], &seen["why"]), (&json!(key), &json!(words)), "{before}");
    }
    assert_eq!(explained(door, &wanted()).await, before, "asking changes nothing");
    assert_eq!(farm.audit().await.total(), 0);

    let spawned = door.spawned(&wanted()).await;
    assert_eq!(spawned["node"], "node-a");
    let after = explained(door, &wanted()).await;
    assert_eq!((after.get("chosen"), &after["code"]), (None, &json!("no-capacity")), "{after}");
    assert_eq!(verdict(&after, "node-a")["why"], "1 of 1 slots are in use");
    let full = refused(door, &wanted(), "no-capacity").await;
    assert_eq!((&full["reasons"], &after["reasons"]), (&reasons(&[("full", 1)]), &reasons(&[("full", 1)])));
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_request_that_no_node_suits_is_answered_with_what_they_lack() {
    let farm = farm().await;
    let door = farm.door(0);
    let body = json!({"labels": {"sdk": "3"}});
    let refusal = refused(door, &body, "no-matching-node").await;
    assert_eq!(refusal["reasons"], json!({"label sdk": 5, "dedicated": 1}), "{refusal}");
    let explained = explained(door, &body).await;
    assert_eq!(
        (&explained["code"], &explained["reasons"]),
        (&json!("no-matching-node"), &refusal["reasons"])
    );
    // Wrong bodies are refused as those of a spawn are.
    let wrong = json!({"colour": "red"});
    let (spawn, explain) = (door.spawn(&wrong).await, door.post("/v1/explain").json(&wrong).send().await);
    let of = |answer: &Response| {
        let problem = answer.json();
        (answer.status, problem["code"].clone(), problem["field"].clone(), problem["detail"].clone())
    };
    assert_eq!(of(&spawn), of(&explain));
    farm.finish().await;
}

#[tokio::test]
async fn without_the_registry_reasons_are_those_that_the_front_door_knew() {
    let mut farm = farm().await;
    let door = farm.door(0);
    // It has looked at the farm since the last order.
    until("the front door has taken a snapshot", TIMEOUT, async || {
        let metrics = farm.doors[0].metrics().await;
        let nodes = metrics.get("hatchery_frontdoor_snapshot_nodes").unwrap_or_default();
        Look::when(nodes >= 6.0, || nodes.to_string())
    })
    .await;
    farm.redis.kill();
    until("the front door places without the registry", TIMEOUT, async || {
        let answer = explained(door, &wanted()).await;
        Look::when(answer["source"] == "snapshot", || answer.to_string())
    })
    .await;
    let spawned = door.spawned(&wanted()).await;
    assert_eq!(spawned["node"], "node-a");
    let refusal = refused(door, &wanted(), "no-capacity").await;
    let explained = explained(door, &wanted()).await;
    assert_eq!(refusal["reasons"], reasons(&[("full", 1)]), "{refusal}");
    assert_eq!((explained.get("chosen"), &explained["reasons"]), (None, &refusal["reasons"]));
    farm.redis.restart().await;
    let id = spawned["id"].as_str().unwrap();
    farm.reaches(id, "ready", TIMEOUT).await;
    farm.stop([id]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_tenant_learns_of_its_own_request_and_not_of_the_farms_nodes() {
    let farm = Farm::builder().keys().agent(AgentPlan::slots(2)).agent(AgentPlan::slots(2)).start().await;
    let door = farm.door(0).showing_nothing();
    let tenant = door.showing(&farm.key(&["--scope", "spawn", "--concurrent-spawns", "1"]).await);
    let operator = door.showing(&farm.key(&["--scope", "operate"]).await);
    let answer = explained(tenant, &json!({})).await;
    assert!(answer["chosen"].is_string(), "{answer}");
    assert_eq!((&answer["nodes"], &answer["unlisted"]), (&json!([]), &json!(2)), "{answer}");
    assert_eq!(answer["reasons"], json!({"equal": 1}));
    assert!(!answer["why"].as_str().unwrap().contains("slots"), "{answer}");
    assert_eq!(explained(operator, &json!({})).await["nodes"].as_array().unwrap().len(), 2);
    // Its own limit is a reason, and no other caller's.
    let id = tenant.spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    let answer = explained(tenant, &json!({})).await;
    assert_eq!((&answer["code"], &answer["reasons"]), (&json!("quota-exceeded"), &json!({"quota": 2})));
    assert!(explained(operator, &json!({})).await["chosen"].is_string());
    assert_eq!(tenant.delete(&format!("/v1/spawns/{id}")).send().await.status, 202);
    farm.ends(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_command_line_shows_the_verdicts_and_exits_as_a_spawn_would() {
    let farm = farm().await;
    let ran = farm.run(&["explain", "--label", "sdk=2"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("node-a would be chosen: it is the least loaded"), "{ran:?}");
    let row = ran.stdout.lines().find(|line| line.starts_with("node-b")).unwrap();
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["node-b", "label", "sdk"], "{row}");
    assert!(row.ends_with("its label sdk is 1, not 2"), "{row}");

    let spawned = farm.run(&["spawn", "--label", "sdk=2", "--json"]).await.json();
    for (command, words) in
        [("explain", "no node would be chosen"), ("spawn", "nodes: 1 cordoned, 1 dedicated")]
    {
        let ran = farm.run(&[command, "--label", "sdk=2"]).await;
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(words), "{ran:?}");
    }
    let json = farm.run(&["explain", "--label", "sdk=2", "--json"]).await;
    assert_eq!((json.code, &json.json()["reasons"]), (4, &reasons(&[("full", 1)])));
    assert_eq!(farm.run(&["explain", "--label", "nonsense"]).await.code, 2);
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

/// How often Redis was asked for the names of all nodes, among other sets, since the last look.
async fn sets_read(farm: &Farm) -> u64 {
    let stats = farm.redis.says("INFO commandstats").await.unwrap();
    farm.redis.says("CONFIG RESETSTAT").await.unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_smembers:calls="));
    line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn refusals_at_once_share_one_look_at_the_nodes() {
    const REFUSALS: usize = 400;
    let farm = Farm::small(1).await;
    let door = farm.door(0);
    let spawned = door.spawned(&json!({})).await;
    sets_read(&farm).await;
    let answers = join_all((0..REFUSALS).map(|_| door.post("/spawn").json(&json!({})).send())).await;
    let read = sets_read(&farm).await;
    for answer in answers {
        assert_eq!(answer.problem(503, "no-capacity").json["reasons"], json!({"full": 1}), "{answer:?}");
    }
    assert!(read < REFUSALS as u64 / 4, "{read}");
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_node_that_will_not_come_back_is_forgotten_and_one_that_comes_back_registers_again() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(1)).agent(AgentPlan::slots(1)).start().await;
    let door = farm.door(0);
    let path = "/v1/nodes/node-b";
    door.delete(path).send().await.problem(409, "node-up");
    door.delete("/v1/nodes/nowhere").send().await.problem(404, "not-found");
    assert_eq!(farm.run(&["forget", "node-b"]).await.code, 4);
    assert_eq!(farm.run(&["forget", "nowhere"]).await.code, 3);
    let spawned = [door.spawned(&json!({})).await, door.spawned(&json!({})).await];
    let on = |node: &str| spawned.iter().find(|spawn| spawn["node"] == node).unwrap()["id"].as_str().unwrap();
    let (stays, lost) = (on("node-a").to_owned(), on("node-b").to_owned());

    let mut feed = Subscriber::connect(door.addr).await;
    feed.subscribe("nodes").await;
    farm.agent_mut("node-b").role.kill();
    until("node-b is not up", TIMEOUT, async || {
        let node = door.json(path).await;
        Look::when(node["availability"] != "up", || node.to_string())
    })
    .await;
    let ran = farm.run(&["forget", "node-b"]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "node-b  forgotten, spawns ended as node-lost: 1\n"),
        "{ran:?}"
    );
    door.get(path).send().await.problem(404, "not-found");
    assert_eq!(farm.record(&lost).await["exit"]["reason"], "node-lost");
    farm.doors[0].role.logs("node forgotten").await;
    let events = feed.until("node.forgotten").await;
    assert_eq!(events.last().unwrap()["node"], "node-b", "{events:?}");
    assert_eq!(explained(door, &json!({})).await["reasons"], json!({"full": 1}));

    farm.agent_mut("node-b").restart().await;
    until("node-b is up again with what it runs", TIMEOUT, async || {
        let node = door.get(path).send().await;
        let back =
            node.status == 200 && node.json()["availability"] == "up" && node.json()["slots"]["used"] == 1;
        Look::when(back, || node.text())
    })
    .await;
    farm.reaches(&lost, "ready", TIMEOUT).await;
    farm.stop([stays.as_str(), lost.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn orders_to_a_forgotten_node_are_not_repeated_to_the_next_one_of_its_name() {
    let plan = || AgentPlan::slots(1);
    let mut farm = Farm::builder().doors(2).agent(plan()).agent(plan()).start().await;
    let path = "/v1/nodes/node-b";
    let order = farm.door(0).post(&format!("{path}/cordon")).json(&json!({})).send().await;
    assert_eq!(order.status, 200, "{order:?}");
    farm.agent_mut("node-b").role.kill();
    until("node-b is not up", TIMEOUT, async || {
        let node = farm.door(1).json(path).await;
        Look::when(node["availability"] != "up", || node.to_string())
    })
    .await;
    let forgotten = farm.door(1).delete(path).send().await;
    assert_eq!(forgotten.status, 200, "{forgotten:?}");
    // Another machine gets the name.
    std::fs::remove_dir_all(&farm.agent("node-b").state_dir).unwrap();
    farm.agent_mut("node-b").restart().await;
    // Both front doors look at the farm once a second.
    longer_than(Duration::from_secs(4)).await;
    let node = farm.door(0).json(path).await;
    assert_eq!((&node["availability"], &node["eligibility"]), (&json!("up"), &json!("eligible")), "{node}");
    for door in &farm.doors {
        assert!(!door.role.log().contains("order repeated"), "{}", door.role.name);
    }
    let spawned = [farm.door(0).spawned(&json!({})).await, farm.door(1).spawned(&json!({})).await];
    farm.stop(spawned.iter().map(|spawn| spawn["id"].as_str().unwrap())).await;
    farm.finish().await;
}
