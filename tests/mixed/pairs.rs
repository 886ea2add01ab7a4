//! A front door of one release with an agent of the other, and front doors of both releases on one registry.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, Mood, Moody, Release, Subscriber, until, wait::TIMEOUT};
use serde_json::{Value, json};
use tempfile::TempDir;

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

async fn order(farm: &Farm, door: usize, node: &str, verb: &str, body: &Value) {
    let answer = farm.door(door).post(&format!("/v1/nodes/{node}/{verb}")).json(body).send().await;
    assert_eq!((answer.status, &answer.json()["agentAcknowledged"]), (200, &json!(true)), "{answer:?}");
}

async fn is(farm: &Farm, door: usize, node: &str, eligibility: &str) {
    until(&format!("{node} is {eligibility}"), TIMEOUT, async || {
        let node = farm.door(door).json(&format!("/v1/nodes/{node}")).await;
        Look::when(node["eligibility"] == eligibility, || node.to_string())
    })
    .await;
}

/// All that callers and operators do with one node works.
async fn everything_works(doors: &[Release], agent: Release) {
    let plan = AgentPlan::slots(4).release(agent).args(&["--stop-grace", "500ms", "--gpus", "1"]);
    let farm = Farm::builder().doors_of(doors).agent(plan).start().await;
    let door = farm.door(0);
    let mut subscriber = Subscriber::connect(door.addr).await;
    subscriber.subscribe("spawns").await;

    // A viewer that looks, and leaves.
    let (id, viewer) = farm.watched().await;
    assert_eq!(farm.audit().await.total(), 1);
    let log = door.get(&format!("/v1/spawns/{id}/log")).send().await;
    assert_eq!(log.status, 200, "{log:?}");
    assert!(!log.body.is_empty());
    viewer.leave().await;
    assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    let told = subscriber.until("spawn.exited").await;
    assert_eq!(told.last().unwrap()["spawn"], id.as_str(), "{told:?}");

    // The other renderer, and one that is stopped.
    let answer = door.spawned(&json!({"rendererType": "ssr"})).await;
    let id = text(&answer, "id").to_owned();
    let mut viewer = hatchery_tests::Viewer::server_side(text(&answer, "endpoint")).await;
    viewer.render(None).await;
    farm.stop([id.as_str()]).await;
    assert_eq!(farm.ends(&id).await["reason"], "stopped");

    // One that fails says why.
    let answer = door.spawn(&json!({"sessionToken": "sim:exit_before_ready=6"})).await;
    assert_eq!(answer.problem(502, "spawn-failed").text("reason"), "invalid license");

    // A caller who hangs up leaves nothing.
    let gone = door.post("/spawn").json(&json!({"sessionToken": "sim:ready_delay_ms=5000"})).start().await;
    until("it has begun", TIMEOUT, async || {
        Look::when(!farm.processes().is_empty(), || "no process".to_owned())
    })
    .await;
    drop(gone);
    farm.assert_empty().await;

    // What operators want.
    order(&farm, 0, "node-a", "cordon", &json!({})).await;
    assert_eq!(door.spawn(&json!({})).await.status, 503, "nothing starts on a node that is closed");
    order(&farm, 0, "node-a", "uncordon", &json!({})).await;
    is(&farm, 0, "node-a", "eligible").await;
    let (id, viewer) = farm.watched().await;
    order(&farm, 0, "node-a", "drain", &json!({"deadlineSeconds": 600})).await;
    is(&farm, 0, "node-a", "draining").await;
    assert_eq!(farm.record(&id).await["state"], "ready", "it has its time");
    order(&farm, 0, "node-a", "drain", &json!({"force": true})).await;
    assert_eq!(farm.ends(&id).await["reason"], "drained");
    drop(viewer);
    order(&farm, 0, "node-a", "uncordon", &json!({})).await;
    is(&farm, 0, "node-a", "eligible").await;

    // A registry that is wiped learns it all again.
    let (id, mut viewer) = farm.watched().await;
    assert!(farm.redis.flush().await);
    farm.reaches(&id, "ready", TIMEOUT).await;
    viewer.still_watches().await;
    assert_eq!(farm.audit().await.total(), 1);
    viewer.leave().await;
    farm.ends(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_serves_with_an_agent_of_the_release_before() {
    everything_works(&[Release::Current], Release::Previous).await;
}

#[tokio::test]
async fn an_agent_serves_a_front_door_of_the_release_before() {
    everything_works(&[Release::Previous], Release::Current).await;
}

const BOTH: [Release; 2] = [Release::Current, Release::Previous];

#[tokio::test]
async fn a_key_used_through_one_front_door_gives_the_same_spawn_through_the_other() {
    for agent in BOTH {
        let farm = Farm::builder().doors_of(&BOTH).agent(AgentPlan::slots(8).release(agent)).start().await;
        let bodies =
            [json!({}), json!({"rendererType": "csr", "waitSeconds": 2}), json!({"model": "bolt.scs"})];
        let mut ids = Vec::new();
        for (at, body) in bodies.iter().enumerate() {
            for first in 0..2 {
                let key = format!("key-{at}-{first}");
                let ask = async |door: usize, body: &Value| {
                    farm.door(door).post("/spawn").header("idempotency-key", &key).json(body).send().await
                };
                let given = ask(first, body).await;
                assert_eq!(given.status, 200, "{given:?}");
                let again = ask(1 - first, body).await;
                assert_eq!(again.status, 200, "{body} through door {first} first: {again:?}");
                assert_eq!(again.json()["id"], given.json()["id"], "one key, one spawn");
                ask(1 - first, &json!({"sessionToken": "another"}))
                    .await
                    .problem(409, "idempotency-conflict");
                ids.push(text(&given.json(), "id").to_owned());
            }
        }
        assert_eq!(farm.audit().await.total(), 6);
        farm.stop(ids.iter().map(String::as_str)).await;
        farm.finish().await;
    }
}

#[tokio::test]
async fn calls_with_one_key_at_both_front_doors_at_once_get_one_spawn() {
    let farm = Farm::builder().doors_of(&BOTH).agent(AgentPlan::slots(8)).start().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=700"});
    for round in 0..4 {
        let key = format!("key-{round}");
        let calls: Vec<_> = (0..4)
            .map(|call| {
                let door = farm.door((round + call) % 2);
                tokio::spawn(door.post("/spawn").header("idempotency-key", &key).json(&body).send())
            })
            .collect();
        let mut ids = std::collections::BTreeSet::new();
        for call in calls {
            let answer = call.await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            ids.insert(text(&answer.json(), "id").to_owned());
        }
        assert_eq!(ids.len(), 1, "{ids:?}");
        farm.stop(ids.iter().map(String::as_str)).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn orders_through_front_doors_of_both_releases_follow_each_other() {
    let plan = |release| AgentPlan::slots(2).release(release);
    let farm = Farm::builder()
        .doors_of(&BOTH)
        .agent(plan(Release::Current))
        .agent(plan(Release::Previous))
        .start()
        .await;
    for node in ["node-a", "node-b"] {
        for round in 0..2 {
            order(&farm, round, node, "cordon", &json!({})).await;
            is(&farm, 1 - round, node, "cordoned").await;
            order(&farm, 1 - round, node, "drain", &json!({"deadlineSeconds": 600})).await;
            is(&farm, round, node, "draining").await;
            order(&farm, round, node, "uncordon", &json!({})).await;
            is(&farm, 1 - round, node, "eligible").await;
        }
        // The last word is the other front door's, whatever the first one remembers.
        order(&farm, 0, node, "cordon", &json!({})).await;
        order(&farm, 1, node, "uncordon", &json!({})).await;
        hatchery_tests::wait::longer_than(Duration::from_secs(3)).await;
        for door in 0..2 {
            is(&farm, door, node, "eligible").await;
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn those_who_wait_at_front_doors_of_both_releases_are_all_served() {
    let farm = Farm::builder().doors_of(&BOTH).agent(AgentPlan::slots(1)).start().await;
    let mut running = text(&farm.door(0).spawned(&json!({})).await, "id").to_owned();
    let mut waiters = futures_util::stream::FuturesUnordered::new();
    for number in 0..6 {
        let request = farm.door(number % 2).post("/spawn").json(&json!({"waitSeconds": 25}));
        waiters.push(tokio::spawn(async move { (number, request.send().await) }));
        farm.waiting(number + 1).await;
    }
    for expected in 0..6 {
        farm.stop([running.as_str()]).await;
        let (number, answer) = futures_util::StreamExt::next(&mut waiters).await.unwrap().unwrap();
        assert_eq!((number, answer.status), (expected, 200), "{answer:?}");
        running = text(&answer.json(), "id").to_owned();
    }
    farm.stop([running.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_of_the_release_before_goes_on_telling_when_a_node_fails() {
    let scratch = TempDir::new().unwrap();
    let moody = Moody::new(scratch.path());
    let sick = AgentPlan::slots(4).executable(moody.executable());
    let farm = Farm::builder().doors_of(&BOTH).agent(AgentPlan::slots(4)).agent(sick).start().await;
    let mut subscriber = Subscriber::connect(farm.door(1).addr).await;
    for topic in ["nodes", "spawns"] {
        subscriber.subscribe(topic).await;
    }
    moody.becomes(Mood::ExitsAtOnce);
    until("node-b is failing", TIMEOUT, async || {
        let answer = farm.door(0).spawned(&json!({})).await;
        farm.stop([text(&answer, "id")]).await;
        let node = farm.door(0).json("/v1/nodes/node-b").await;
        Look::when(node["health"]["state"] == "failing", || node.to_string())
    })
    .await;
    // What happens later is heard of.
    order(&farm, 0, "node-a", "cordon", &json!({})).await;
    let told = subscriber.until("node.cordoned").await;
    assert_eq!(told.last().unwrap()["node"], "node-a");
    // So it is by those who come now.
    let mut late = Subscriber::connect(farm.door(1).addr).await;
    late.subscribe("nodes").await;
    order(&farm, 1, "node-a", "uncordon", &json!({})).await;
    for subscriber in [&mut subscriber, &mut late] {
        subscriber.until("node.uncordoned").await;
    }
    farm.finish().await;
}

/// Spawns asked for one after the other while one of two nodes is sick.
const SPAWNS: usize = 20;

#[tokio::test]
async fn a_sick_node_of_the_release_before_fails_hardly_any_caller() {
    let scratch = TempDir::new().unwrap();
    let moody = Moody::new(scratch.path());
    let sick = AgentPlan::slots(8).executable(moody.executable()).release(Release::Previous);
    // The other front door is there and calls, too: it knows nothing of health.
    let farm = Farm::builder().doors_of(&BOTH).agent(AgentPlan::slots(8)).agent(sick).start().await;
    moody.becomes(Mood::ExitsAtOnce);
    let mut failed = Vec::new();
    for _ in 0..SPAWNS {
        let other = farm.door(1).spawn(&json!({})).await;
        let answer = farm.door(0).spawn(&json!({})).await;
        for given in [&other, &answer] {
            if given.status == 200 {
                farm.stop([text(&given.json(), "id")]).await;
            }
        }
        if answer.status != 200 {
            failed.push(answer);
        }
    }
    assert!(failed.len() <= 1, "{} of {SPAWNS} failed: {failed:#?}", failed.len());
    let node = farm.door(0).json("/v1/nodes/node-b").await;
    assert_eq!(node["health"]["state"], "failing", "{node}");
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_with_tags_starts_on_agents_of_both_releases_and_those_of_this_one_keep_them() {
    let plan = |release, pool| AgentPlan::slots(2).release(release).args(&["--pool", pool]);
    let farm = Farm::builder()
        .doors_of(&BOTH)
        .agent(plan(Release::Current, "new"))
        .agent(plan(Release::Previous, "old"))
        .start()
        .await;
    let mut ids = Vec::new();
    for (pool, tags) in [("new", json!({"user": "ann"})), ("old", Value::Null)] {
        let answer = farm.door(0).spawned(&json!({"pool": pool, "tags": {"user": "ann"}})).await;
        let id = text(&answer, "id").to_owned();
        assert_eq!(farm.record(&id).await.get("tags").cloned().unwrap_or_default(), tags, "{pool}");
        // The front door of the release before shows both.
        assert_eq!(farm.door(1).json(&format!("/v1/spawns/{id}")).await["state"], "ready");
        ids.push(id);
    }
    let list = farm.door(0).json("/v1/spawns?tag=user=ann").await;
    assert_eq!(list["spawns"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["spawns"][0]["id"], ids[0].as_str());
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}
