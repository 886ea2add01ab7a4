//! Whether somebody looks at a spawn, and how long it may live.

use std::time::Duration;

use hatchery_tests::live::Subscriber;
use hatchery_tests::wait::{TIMEOUT, longer_than};
use hatchery_tests::{AgentPlan, Farm, Look, Viewer, until};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Where the farm is reached from outside; the tests go to a front door directly.
const PUBLIC: &str = "http://viewers.example.com";

async fn farm(flags: &[&str]) -> Farm {
    Farm::builder().door_args(flags).agent(AgentPlan::slots(4)).start().await
}

/// A new spawn: its id, and where a viewer reaches it through the front door or directly.
async fn spawn(farm: &Farm, body: Value) -> (String, String) {
    let answer = farm.door(0).spawned(&body).await;
    let text = |member: &str| answer[member].as_str().unwrap().to_owned();
    let endpoint =
        text("endpoint").replace("ws://viewers.example.com", &format!("ws://{}", farm.door(0).addr));
    (text("id"), endpoint)
}

/// The record, once it says so of its viewer.
async fn viewer_is(farm: &Farm, id: &str, presence: &str) -> Value {
    until(&format!("the viewer of {id} is {presence}"), TIMEOUT, async || {
        let record = farm.record(id).await;
        Look::when(record["viewer"] == presence, || record.to_string()).and(record.clone())
    })
    .await
}

async fn extend(farm: &Farm, id: &str, body: &Value) -> hatchery_tests::http::Response {
    farm.door(0).request("PATCH", &format!("/v1/spawns/{id}")).json(body).send().await
}

fn kinds(record: &Value) -> Vec<&str> {
    record["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_spawn_says_whether_its_viewer_is_there_and_since_when() {
    for flags in [&["--public-url", PUBLIC][..], &[]] {
        let farm = farm(flags).await;
        let (mut listener, _) = Subscriber::to(farm.door(0).addr, "spawns").await;
        let (id, endpoint) = spawn(&farm, json!({})).await;
        let record = farm.record(&id).await;
        assert_eq!((&record["viewer"], record.get("connectedAt")), (&json!("never"), None), "{record}");
        let mut viewer = Viewer::client_side(&endpoint).await;
        viewer.greet().await;
        let came = viewer_is(&farm, &id, "connected").await;
        assert!(came["connectedAt"].is_string() && came.get("disconnectedAt").is_none(), "{came}");
        let event = listener.until("spawn.connected").await;
        assert_eq!(event.last().unwrap()["spawn"], id.as_str(), "{event:?}");
        let (_, snapshot) = Subscriber::to(farm.door(0).addr, "spawns").await;
        assert_eq!(snapshot["snapshot"][0]["viewer"], "connected", "the live feed's snapshot: {snapshot:?}");
        // Another one is told that there is one, and changes nothing.
        assert!(Viewer::connect(&endpoint, None).await.is_err() || flags.is_empty());
        viewer.still_watches().await;
        viewer.leave().await;
        farm.ends(&id).await;
        let left = viewer_is(&farm, &id, "gone").await;
        assert_eq!(left["connectedAt"], came["connectedAt"]);
        assert!(left["disconnectedAt"].as_str() >= left["connectedAt"].as_str(), "{left}");
        assert_eq!(kinds(&left).iter().filter(|kind| **kind == "spawn.connected").count(), 1, "{left}");
        let shown = farm.run(&["show", &id]).await;
        assert!(shown.stdout.contains("viewer") && shown.stdout.contains("gone"), "{shown:?}");
        farm.finish().await;
    }
}

#[tokio::test]
async fn an_agent_that_is_replaced_or_killed_knows_the_viewers_and_the_lives_of_its_predecessor() {
    let mut farm = farm(&["--public-url", PUBLIC]).await;
    let (id, endpoint) = spawn(&farm, json!({"maxSeconds": 3600})).await;
    let mut viewer = Viewer::client_side(&endpoint).await;
    viewer.greet().await;
    let before = viewer_is(&farm, &id, "connected").await;
    farm.agents[0].restart().await;
    viewer.still_watches().await;
    farm.agents[0].role.kill();
    farm.agents[0].restart().await;
    viewer.still_watches().await;
    // A registry that has forgotten everything learns it from the agent.
    farm.redis.says("FLUSHALL").await.unwrap();
    let after = until("the registry knows it again", TIMEOUT, async || {
        let answer = farm.door(0).get(&format!("/v1/spawns/{id}")).send().await;
        Look::when(answer.status == 200, || format!("{answer:?}")).and(answer)
    })
    .await
    .json();
    let millis = |record: &Value, member: &str| {
        let text = record[member].as_str().unwrap_or_else(|| panic!("no {member} in {record}"));
        serde_json::from_value::<model::Timestamp>(json!(text)).unwrap().millis()
    };
    assert_eq!(after["viewer"], "connected", "{after}");
    for member in ["connectedAt", "expiresAt"] {
        let drift = millis(&before, member).abs_diff(millis(&after, member));
        assert!(drift < 2000, "{member}: {before} {after}");
    }
    viewer.leave().await;
    farm.ends(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_past_its_life_is_ended_and_one_that_was_extended_is_not() {
    let farm = farm(&[]).await;
    let (short, _) = spawn(&farm, json!({"maxSeconds": 2})).await;
    let (long, _) = spawn(&farm, json!({"maxSeconds": 2})).await;
    let extended = extend(&farm, &long, &json!({"maxSeconds": 3600})).await;
    assert_eq!(extended.status, 200, "{extended:?}");
    let (extended, record) = (extended.json(), farm.record(&long).await);
    assert_eq!(extended["id"], long.as_str());
    for told in [&extended, &record] {
        let at = serde_json::from_value::<model::Timestamp>(told["expiresAt"].clone()).unwrap();
        assert!(at.since(model::Timestamp::now()) > Duration::from_secs(3500), "{told}");
    }
    let exit = farm.ends(&short).await;
    assert_eq!(exit["reason"], "expired", "{exit}");
    assert_eq!(farm.record(&long).await["state"], "ready");
    // Whoever is past the life that is left to it is ended at once.
    assert_eq!(extend(&farm, &long, &json!({"maxSeconds": 1})).await.status, 200);
    assert_eq!(farm.ends(&long).await["reason"], "expired");
    extend(&farm, &long, &json!({"maxSeconds": 5})).await.problem(410, "spawn-ended");
    farm.finish().await;
}

#[tokio::test]
async fn a_life_that_makes_no_sense_is_refused_by_name_and_changes_nothing() {
    let farm = farm(&["--max-life", "1h"]).await;
    for wrong in [json!(0), json!(-1), json!(1.5), json!("60"), json!(3601), json!(1e12)] {
        let problem = farm.door(0).spawn(&json!({"maxSeconds": wrong})).await;
        let problem = problem.problem(400, "invalid-request");
        assert!(problem.detail.contains("maxSeconds"), "{wrong}: {problem:?}");
    }
    assert!(farm.processes().is_empty());
    let (id, _) = spawn(&farm, json!({})).await;
    let before = farm.record(&id).await["expiresAt"].clone();
    for wrong in
        [json!({"maxSeconds": 0}), json!({"maxSeconds": 3601}), json!({}), json!({"max": 5}), json!([5])]
    {
        extend(&farm, &id, &wrong).await.problem(400, "invalid-request");
    }
    extend(&farm, "nobody", &json!({"maxSeconds": 5})).await.problem(404, "not-found");
    let after = farm.record(&id).await;
    assert!(after["expiresAt"].is_string(), "the operator's limit is the default: {after}");
    assert_eq!(after["expiresAt"], before);
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_viewer_that_sends_nothing_is_ended_and_one_that_does_is_not() {
    const IDLE: Duration = Duration::from_secs(3);
    for flags in [
        &["--max-idle", "3s", "--public-url", PUBLIC, "--relay-ping-interval", "500ms"][..],
        &["--max-idle", "3s"],
    ] {
        let farm = farm(flags).await;
        let (silent, endpoint) = spawn(&farm, json!({})).await;
        let mut quiet = Viewer::client_side(&endpoint).await;
        quiet.greet().await;
        let (busy, endpoint) = spawn(&farm, json!({})).await;
        let mut talker = Viewer::client_side(&endpoint).await;
        let (unused, _) = spawn(&farm, json!({})).await;
        let began = Instant::now();
        let talking = async {
            loop {
                talker.still_watches().await;
                longer_than(IDLE / 6).await;
            }
        };
        // It answers pings all the time: these are the relay's, and no frames of its own.
        let quiet = async {
            quiet.is_closed_within(TIMEOUT).await;
            farm.ends(&silent).await
        };
        let exit = tokio::select! {
            exit = quiet => exit,
            () = talking => unreachable!("it talks for ever"),
        };
        assert_eq!(exit["reason"], "idle", "{exit}");
        assert!(began.elapsed() >= IDLE - Duration::from_millis(500), "{:?}", began.elapsed());
        assert_eq!(farm.record(&busy).await["state"], "ready");
        assert_eq!(farm.record(&unused).await["state"], "ready", "no viewer has ever come");
        talker.leave().await;
        farm.ends(&busy).await;
        farm.stop([unused.as_str()]).await;
        farm.finish().await;
    }
}

#[tokio::test]
async fn a_life_that_cannot_be_set_now_is_refused_and_stays_as_it_was() {
    let mut farm = farm(&[]).await;
    let (id, _) = spawn(&farm, json!({"maxSeconds": 3600})).await;
    let before = farm.record(&id).await["expiresAt"].clone();
    farm.agents[0].role.kill();
    extend(&farm, &id, &json!({"maxSeconds": 7200})).await.problem(503, "node-unreachable");
    assert_eq!(farm.record(&id).await["expiresAt"], before);
    farm.agents[0].restart().await;
    farm.redis.kill();
    extend(&farm, &id, &json!({"maxSeconds": 7200})).await.problem(503, "registry-unavailable");
    farm.redis.restart().await;
    let extended = until("it can be set again", TIMEOUT, async || {
        let answer = extend(&farm, &id, &json!({"maxSeconds": 7200})).await;
        Look::when(answer.status == 200, || format!("{answer:?}")).and(answer)
    })
    .await
    .json();
    assert!(extended["expiresAt"].as_str() > before.as_str(), "{before} {extended}");
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}
