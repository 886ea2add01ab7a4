//! `POST /service` and `POST /api/spawn`: rows 1 to 4, 14 and 16 of `docs/operator/hoops-server.md`. Rows 11 to 13 are the agent's, and its
//! own tests hold them.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Look, until};
use serde_json::json;
use tokio::time::Instant;

use super::{builder, failure, farm, hoops, nothing_is_left, ok, service, stopped};

#[tokio::test]
async fn both_paths_spawn_alike_from_json_from_forms_and_from_nothing() {
    let farm = farm(12, &[]).await;
    let client = hoops(&farm);
    const FORM: &str = "application/x-www-form-urlencoded";
    for (path, media, body, renderer) in [
        ("/service", "", "", "csr"),
        ("/api/spawn", "application/json", r#"{"class":"csr_session","params":{}}"#, "csr"),
        ("/service", "application/json", r#"{"class":"ssr_session","params":{}}"#, "ssr"),
        ("/api/spawn", FORM, "class=ssr_session&params[sessionToken]=tok", "ssr"),
        ("/SERVICE/", "application/json", r#"{"class":"SSR_SESSION"}"#, "csr"),
        ("/Api/Spawn", "text/plain", r#"{"class":"ssr_session"}"#, "csr"),
        ("/service?x=y", "application/json", "[]", "csr"),
        (
            "/service",
            "application/json",
            r#"{"readyEndpoint":"http://x","statusUpdateFrequency":"5"}"#,
            "csr",
        ),
    ] {
        let request = client.post(path).body(body);
        let request = if media.is_empty() { request } else { request.header("content-type", media) };
        let (id, endpoint) = ok(&request.send().await);
        let record = farm.record(&id).await;
        assert_eq!(
            (&record["rendererType"], &record["state"]),
            (&json!(renderer), &json!("ready")),
            "{body}"
        );
        assert_eq!(record["endpoint"], endpoint);
        let process = farm.process(&id).unwrap();
        assert_eq!(process.option(&format!("--{renderer}")), Some("true"), "exactly one of the two");
        let other = if renderer == "csr" { "--ssr" } else { "--csr" };
        assert_eq!(process.option(other), None);
        stopped(&farm, &id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn the_answer_is_the_vendors_and_its_url_has_a_host_and_a_port() {
    let farm = farm(2, &[]).await;
    let response = hoops(&farm).post("/service").json(&json!({})).send().await;
    let (id, endpoint) = ok(&response);
    let port = farm.process(&id).unwrap().option("--sc-port").unwrap().to_owned();
    assert_eq!(endpoint, format!("ws://127.0.0.1:{port}"));
    assert_eq!(
        response.json(),
        json!({"result": "ok", "serviceId": id, "endpoints": {"ws": endpoint}}),
        "no member more: clients fail at endpoints that they do not know"
    );
    assert_eq!(response.header("content-type"), Some("application/json; charset=utf-8"));
    stopped(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_url_is_the_nodes_own_where_that_is_wanted_though_there_is_a_relay() {
    let args = ["--public-url", "https://farm.example.com/below", "--hoops-endpoint", "direct"];
    let farm = farm(2, &args).await;
    let (id, endpoint) = service(hoops(&farm), json!({})).await;
    let port = farm.process(&id).unwrap().option("--sc-port").unwrap().to_owned();
    assert_eq!(endpoint, format!("ws://127.0.0.1:{port}"));
    assert_eq!(farm.record(&id).await["endpoint"], endpoint);
    stopped(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn failures_have_the_vendors_statuses_both_shapes_and_a_reason() {
    let farm = builder(&[]).agent(AgentPlan::slots(1).args(&["--ssr", "false"])).start().await;
    let client = hoops(&farm);
    let fails = async |body| client.post("/service").json(&body).send().await;
    let refused = fails(json!({"class": "ssr_session"})).await;
    assert_eq!(failure(&refused, 403), "Invalid rendering location");
    let (id, _) = service(client, json!({})).await;
    let reason = failure(&fails(json!({})).await, 503);
    assert!(reason.starts_with("No ports available"), "{reason}");
    until("both refusals are counted", TIMEOUT, async || {
        let history = farm.door(0).json("/v1/history").await;
        let minutes = history["minutes"].as_array().unwrap();
        let count =
            |code: &str| minutes.iter().filter_map(|minute| minute["refused"][code].as_u64()).sum::<u64>();
        let seen = (count("no-matching-node"), count("no-capacity"));
        Look::when(seen == (1, 1), || history.to_string())
    })
    .await;
    stopped(&farm, &id).await;
    for (token, words) in [
        ("sim:exit_before_ready=6", "ts3d_sc_server failed: reason='invalid license', exit-code=6, id="),
        ("sim:exit_before_ready=4", "reason='failed to initialize the stream-cache', exit-code=4, id="),
        ("sim:exit_before_ready=0", "reason='success', exit-code=0, id="),
        ("sim:exit_before_ready=77", "reason='unknown exit-code', exit-code=77, id="),
    ] {
        let reason = failure(&fails(json!({"params": {"sessionToken": token}})).await, 500);
        assert!(reason.contains(words), "{reason}");
        assert!(reason.rsplit('=').next().unwrap().len() == 36, "an id: {reason}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_a_signal_ends_or_that_cannot_be_started_is_named_as_the_vendor_does() {
    let farm = builder(&[]).agent(AgentPlan::slots(1).executable("/nowhere/ts3d_sc_server")).start().await;
    let response = hoops(&farm).post("/service").send().await;
    let reason = failure(&response, 500);
    assert_eq!(reason, "spawn ts3d_sc_server ENOENT");
    assert!(!response.text().contains("/nowhere"), "{response:?}");
    farm.finish().await;

    let scratch = tempfile::tempdir().unwrap();
    let server = scratch.path().join("ts3d_sc_server");
    std::fs::write(&server, "#!/bin/sh\nkill -KILL $$\n").unwrap();
    std::fs::set_permissions(&server, std::fs::Permissions::from_mode(0o755)).unwrap();
    let farm = builder(&[]).agent(AgentPlan::slots(1).executable(&server)).start().await;
    let reason = failure(&hoops(&farm).post("/service").send().await, 500);
    let words = "ts3d_sc_server failed: reason='exited because of signal=SIGKILL, no exit-code', id=";
    assert!(reason.starts_with(words), "{reason}");
    farm.finish().await;
}

#[tokio::test]
async fn a_caller_is_answered_well_before_its_client_gives_up() {
    let farm = farm(1, &["--spawn-deadline", "2s"]).await;
    let began = Instant::now();
    let body = json!({"params": {"sessionToken": "sim:never_ready=1"}});
    let response = hoops(&farm).post("/service").json(&body).send().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let reason = failure(&response, 500);
    let words = "ts3d_sc_server failed: reason='exited because of signal=SIGTERM, no exit-code', id=";
    assert!(reason.starts_with(words), "{reason}");
    assert_eq!(response.json()["detail"], "it was not ready in time");
    nothing_is_left(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn parameters_reach_the_server_and_directories_stay_the_nodes_own() {
    let farm = farm(2, &[]).await;
    let client = hoops(&farm);
    let body = json!({"params": {"model": "bolt.scs", "sessionToken": "tok-9f3"}});
    let (id, _) = service(client, body).await;
    let process = farm.process(&id).unwrap();
    assert!(process.option("--model-file").unwrap().ends_with("bolt.scs"));
    assert_eq!(process.option("--session-token"), Some("tok-9f3"));
    stopped(&farm, &id).await;

    let body = json!({"params": {"modelSearchDirectories": ["/etc", "/tmp"]}});
    let response = client.post("/service").json(&body).send().await;
    let (id, _) = ok(&response);
    let ignored = &response.json()["ignored"]["modelSearchDirectories"];
    assert!(ignored.as_str().unwrap().contains("--model-dir"), "{ignored}");
    let process = farm.process(&id).unwrap();
    assert!(!process.args.iter().any(|arg| arg.contains("/etc")), "{:?}", process.args);
    stopped(&farm, &id).await;

    for model in ["/etc/passwd", "../../etc/passwd", "missing/../../x"] {
        let refused = client.post("/service").json(&json!({"params": {"model": model}})).send().await;
        assert!(failure(&refused, 400).contains("model"), "{refused:?}");
    }
    assert!(farm.processes().is_empty());
    farm.finish().await;
}

#[tokio::test]
async fn a_malformed_parameter_costs_no_port() {
    let farm = builder(&[]).agent(AgentPlan::slots(1).ports(1)).start().await;
    let client = hoops(&farm);
    for _ in 0..3 {
        let body = json!({"params": {"modelSearchDirectories": "/models"}});
        let refused = client.post("/service").json(&body).send().await;
        assert!(failure(&refused, 400).contains("modelSearchDirectories"), "{refused:?}");
    }
    let (id, _) = service(client, json!({})).await;
    stopped(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn spawns_are_the_owners_and_stand_under_its_limits() {
    let args = ["--hoops-owner", "web", "--concurrent-spawns", "2"];
    let farm = farm(6, &args).await;
    let client = hoops(&farm);
    let (first, _) = service(client, json!({})).await;
    let (second, _) = service(client, json!({"class": "ssr_session"})).await;
    assert_eq!(farm.record(&first).await["owner"], "web");
    let reason = failure(&client.post("/service").send().await, 503);
    assert!(reason.starts_with("No ports available: 2 spawns at once"), "{reason}");
    // Others of the farm do not count.
    let other = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    let status = client.json("/api/status").await;
    assert_eq!(
        (&status["ready"], &status["usedSpawnPorts"], &status["availableSpawnPorts"]),
        (&json!(2), &json!(2), &json!(0)),
        "{status}"
    );
    let listed = client.json("/api/spawns").await;
    let ids: Vec<_> = listed["spawns"].as_array().unwrap().iter().map(|spawn| &spawn["id"]).collect();
    assert_eq!(ids, [&json!(first), &json!(second)]);
    farm.stop([first.as_str(), &second, &other]).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_owner_may_be_a_key_whose_limits_count() {
    let mut farm = builder(&[]).keys().agent(AgentPlan::slots(4)).start().await;
    let key = farm.key(&["--scope", "spawn", "--name", "web pages", "--concurrent-spawns", "1"]).await;
    let id = key.split('_').nth(1).unwrap().to_owned();
    for name in [id.as_str(), "web pages"] {
        farm.doors[0].set("--hoops-owner", name);
        farm.doors[0].restart().await;
        let client = hoops(&farm);
        let (spawned, _) = service(client, json!({})).await;
        assert_eq!(farm.record(&spawned).await["owner"], "web pages");
        let reason = failure(&client.post("/service").send().await, 503);
        assert!(reason.contains("1 spawns at once"), "{reason}");
        // The key's holder sees it, as it is its own.
        let own = farm.door(0).showing(&key).json("/v1/spawns").await;
        assert_eq!(own["spawns"][0]["id"], json!(spawned), "{own}");
        stopped(&farm, &spawned).await;
    }
    farm.finish().await;
}
