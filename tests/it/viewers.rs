//! The vendor's viewer connects straight to its spawn, by the endpoint it was given.

use std::fs;

use hatchery_tests::{AgentPlan, Farm, Viewer};
use serde_json::{Value, json};

/// Seven characters, for the frame sizes the real viewer has.
const TOKEN: &str = "tok-9f3";

async fn spawn(farm: &Farm, body: Value) -> (String, String) {
    let answer = farm.door(0).spawned(&body).await;
    let text = |member: &str| answer[member].as_str().unwrap().to_owned();
    (text("id"), text("endpoint"))
}

/// The normal end: the viewer has left, and the spawn ends by itself.
async fn ends_by_itself(farm: &Farm, id: &str) {
    let exit = farm.ends(id).await;
    assert_eq!((&exit["reason"], &exit["code"]), (&json!("disconnected"), &json!(0)), "{exit}");
    farm.assert_empty().await;
}

#[tokio::test]
async fn a_client_side_viewer_opens_a_model() {
    let farm = Farm::small(2).await;
    let (id, endpoint) = spawn(&farm, json!({"rendererType": "csr", "sessionToken": TOKEN})).await;
    // Path and query of an endpoint pass through as they are.
    let mut viewer = Viewer::client_side(&format!("{endpoint}/any/path?and=query")).await;
    assert_eq!(viewer.protocol(), None);
    viewer.open_model(TOKEN).await;
    let answer = viewer.receive_json().await;
    assert_eq!(answer["command"], "OPEN_MODEL_SUCCEEDED", "{answer}");
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_side_viewer_gets_pictures() {
    let farm = Farm::small(2).await;
    let (id, endpoint) = spawn(&farm, json!({"rendererType": "ssr", "sessionToken": TOKEN})).await;
    let mut viewer = Viewer::server_side(&endpoint).await;
    assert_eq!(viewer.protocol(), Some("binary"));
    viewer.render(Some(TOKEN)).await;
    assert_eq!(viewer.receive().await[0], 0x7b, "an event");
    let first = viewer.receive_picture().await;
    assert_eq!(first[..2], [0xff, 0xd8], "a JPEG");
    assert_ne!(viewer.receive_picture().await, first, "something moves");
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn without_a_token_anybody_may_connect() {
    let farm = Farm::small(2).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&endpoint).await;
    viewer.open_model("").await;
    assert_eq!(viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED");
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    let (id, endpoint) = spawn(&farm, json!({"rendererType": "ssr"})).await;
    let mut viewer = Viewer::server_side(&endpoint).await;
    viewer.render(None).await;
    assert_eq!(viewer.receive().await[0], 0x7b);
    drop(viewer);
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_wrong_token_opens_nothing() {
    let farm = Farm::small(2).await;
    let (id, endpoint) = spawn(&farm, json!({"sessionToken": TOKEN})).await;
    let mut viewer = Viewer::client_side(&endpoint).await;
    viewer.open_model("tok-bad").await;
    let answer = viewer.receive_json().await;
    assert_eq!(
        (&answer["command"], &answer["reason"]),
        (&json!("OPEN_MODEL_FAILED"), &json!("BAD_SESSION_TOKEN"))
    );
    viewer.closed().await;
    ends_by_itself(&farm, &id).await;
    let (id, endpoint) = spawn(&farm, json!({"rendererType": "ssr", "sessionToken": TOKEN})).await;
    let mut viewer = Viewer::server_side(&endpoint).await;
    viewer.render(Some("tok-bad")).await;
    assert_eq!(viewer.receive_json().await["reason"], "BAD_SESSION_TOKEN");
    viewer.closed().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn any_token_reaches_the_server_as_it_is() {
    let farm = Farm::small(2).await;
    for token in [
        "--ssr=true",
        "-h",
        "a b",
        "\u{e9}\u{4e16}\u{1f600}",
        "a=b",
        "'; rm -rf /; '",
        "%s%n",
        &"t".repeat(2000),
    ] {
        let (id, endpoint) = spawn(&farm, json!({"sessionToken": token})).await;
        let mut viewer = Viewer::client_side(&endpoint).await;
        viewer.open_model(token).await;
        assert_eq!(viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED", "{token}");
        viewer.leave().await;
        ends_by_itself(&farm, &id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_token_is_shown_to_no_one() {
    let secret = "secret-7d1f0c";
    let farm = Farm::small(2).await;
    let body = json!({"sessionToken": secret});
    let id =
        farm.door(0).post("/spawn").header("idempotency-key", "once").json(&body).send().await.json()["id"]
            .clone();
    let id = id.as_str().unwrap();
    let mut told =
        vec![farm.record(id).await.to_string(), farm.doors[0].role.log(), farm.agents[0].role.log()];
    told.push(farm.door(0).json("/v1/spawns").await.to_string());
    told.push(fs::read_to_string(farm.agents[0].output_file(id)).unwrap());
    farm.door(0).spawn(&json!({"sessionToken": [secret]})).await.problem(400, "invalid-request");
    told.push(farm.doors[0].role.log());
    for text in told {
        assert!(!text.contains(secret), "{text}");
    }
    farm.stop([id]).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_model_of_the_request_wins_over_the_viewers() {
    let farm = Farm::small(2).await;
    fs::create_dir(farm.mark().join("models/parts")).unwrap();
    fs::write(farm.mark().join("models/parts/a b.scs"), "").unwrap();
    for model in ["bolt.scs", "parts/a b.scs"] {
        let (id, endpoint) = spawn(&farm, json!({"model": model})).await;
        let mut viewer = Viewer::client_side(&endpoint).await;
        viewer.open_model("").await;
        let answer = viewer.receive_json().await;
        let opened = answer["model_name"].as_str().unwrap();
        assert_eq!(opened, farm.mark().join("models").join(model).display().to_string());
        viewer.leave().await;
        ends_by_itself(&farm, &id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_second_viewer_is_turned_away_and_the_first_stays() {
    let farm = Farm::small(2).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut first = Viewer::client_side(&endpoint).await;
    assert!(Viewer::connect(&endpoint, None).await.is_err());
    first.open_model("").await;
    assert_eq!(first.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED");
    first.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_without_a_viewer_ends_by_itself() {
    let farm = Farm::builder().agent(AgentPlan::slots(2).args(&["--initial-use", "1s"])).start().await;
    let (id, _) = spawn(&farm, json!({})).await;
    let exit = farm.ends(&id).await;
    assert_eq!(exit["reason"], "initial-use-timeout", "{exit}");
    farm.finish().await;
}

#[tokio::test]
async fn an_endpoint_has_the_form_its_operator_wants() {
    let plan = AgentPlan::slots(2).args(&["--endpoint", "wss://{node}.farm.example/s/{port}/{id}"]);
    let farm = Farm::builder().agent(plan).start().await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let process = farm.process(&id).unwrap();
    let port = process.option("--sc-port").unwrap();
    assert_eq!(endpoint, format!("wss://node-a.farm.example/s/{port}/{id}"));
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}
