//! Row 8: the upgrade of a connection has a spawn started, waits for it, and is relayed to it.

use std::time::Duration;

use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Client, Farm, Look, Viewer, until};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::{builder, ends_by_itself, farm, hoops, nothing_is_left, service, spawns, stopped};

/// A handshake as it goes over the wire, with these headers more.
pub(super) fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// The head of what comes back for these bytes; the connection must end after it.
pub(super) async fn says(client: Client, bytes: &str) -> String {
    let mut socket = client.open(bytes.as_bytes()).await;
    let mut said = Vec::new();
    tokio::time::timeout(TIMEOUT, socket.read_to_end(&mut said)).await.expect("it closes").ok();
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn an_upgrade_of_any_path_gets_a_spawn_of_its_own_that_ends_with_its_viewer() {
    let farm = farm(2, &[]).await;
    let base = format!("ws://{}", hoops(&farm).addr);
    for (path, renderer) in [
        ("", "csr"),
        ("/", "csr"),
        ("/?renderingLocation=csr", "csr"),
        ("/any/path?a=b&renderingLocation=ssr", "ssr"),
        ("/?renderingLocation=SSR", "csr"),
        ("/service", "csr"),
    ] {
        let url = format!("{base}{path}");
        let viewer = if renderer == "ssr" {
            let mut viewer = Viewer::server_side(&url).await;
            assert_eq!(viewer.protocol(), Some("binary"), "the server's own answer");
            viewer.render(None).await;
            assert_eq!(viewer.receive().await[0], 0x7b, "an event");
            viewer
        } else {
            let mut viewer = Viewer::client_side(&url).await;
            assert_eq!(viewer.protocol(), None);
            viewer.still_watches().await;
            viewer
        };
        let spawn = spawns(&farm).await.remove(0);
        assert_eq!((&spawn["rendererType"], &spawn["state"]), (&json!(renderer), &json!("ready")), "{path}");
        viewer.leave().await;
        ends_by_itself(&farm, spawn["id"].as_str().unwrap()).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_upgrade_waits_until_its_server_is_ready() {
    let plan = AgentPlan::slots(1).env("SC_SIM_READY_DELAY_MS", "3000");
    let farm = builder(&[]).agent(plan).start().await;
    let began = Instant::now();
    let url = format!("ws://{}/", hoops(&farm).addr);
    let mut viewer = Viewer::client_side(&url).await;
    assert!(began.elapsed() >= Duration::from_secs(3));
    viewer.still_watches().await;
    viewer.leave().await;
    nothing_is_left(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_failure_is_a_status_line_with_a_message_and_the_end() {
    let farm = builder(&[]).agent(AgentPlan::slots(1).args(&["--ssr", "false"])).start().await;
    let client = hoops(&farm);
    let refused = says(client, &handshake("/?renderingLocation=ssr", "")).await;
    assert!(refused.starts_with("HTTP/1.1 403 Invalid rendering location\r\n"), "{refused}");
    let (id, _) = service(client, json!({})).await;
    let full = says(client, &handshake("/", "")).await;
    assert!(full.starts_with("HTTP/1.1 503 No ports available: "), "{full}");
    stopped(&farm, &id).await;
    for upgrade in ["h2c", "WebSocket", "websocket, h2c", "websocket/13", ""] {
        let bytes = handshake("/", "").replace("upgrade: websocket", &format!("upgrade: {upgrade}"));
        let bad = says(client, &bytes).await;
        assert!(bad.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{upgrade}: {bad}");
    }
    let mut farm = farm;
    farm.agents[0].set("--env", "SC_SIM_EXIT_BEFORE_READY=6");
    assert_eq!(spawns(&farm).await.len(), 1, "what was refused had nothing started");
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_dies_before_it_is_ready_is_explained_in_the_vendors_words() {
    let plan = AgentPlan::slots(1).env("SC_SIM_EXIT_BEFORE_READY", "6");
    let farm = builder(&[]).agent(plan).start().await;
    let failed = says(hoops(&farm), &handshake("/", "")).await;
    let words = "HTTP/1.1 500 ts3d_sc_server failed: reason='invalid license', exit-code=6, id=";
    assert!(failed.starts_with(words), "{failed}");
    farm.finish().await;
}

#[tokio::test]
async fn a_viewers_own_url_leads_to_its_spawn_and_never_to_a_new_one() {
    let farm = farm(2, &["--public-url", "http://farm.example.com"]).await;
    let client = hoops(&farm);
    let (id, endpoint) = service(client, json!({})).await;
    let path = endpoint.strip_prefix("ws://farm.example.com:80").unwrap_or_else(|| panic!("{endpoint}"));
    let wrong = says(client, &handshake(&format!("{path}0"), "")).await;
    assert!(wrong.starts_with("HTTP/1.1 404 Not Found\r\n"), "{wrong}");
    let mut viewer = Viewer::client_side(&format!("ws://{}{path}", client.addr)).await;
    viewer.still_watches().await;
    let second = says(client, &handshake(path, "")).await;
    assert!(second.starts_with("HTTP/1.1 409 "), "{second}");
    assert_eq!(spawns(&farm).await.len(), 1);
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

async fn held(farm: &Farm, count: f64) {
    until("upgrades are held", TIMEOUT, async || {
        let now = farm.doors[0].metrics().await.get("hatchery_frontdoor_hoops_held_upgrades").unwrap();
        #[expect(clippy::float_cmp, reason = "whole numbers")]
        Look::when(now == count, || format!("{now} held"))
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_while_it_is_held_leaves_nothing() {
    let plan = AgentPlan::slots(2).env("SC_SIM_READY_DELAY_MS", "20000");
    let farm = builder(&[]).agent(plan).start().await;
    let socket = hoops(&farm).open(handshake("/", "").as_bytes()).await;
    let post = hoops(&farm).post("/service").start().await;
    until("two processes start", TIMEOUT, async || {
        let processes = farm.processes().len();
        Look::when(processes == 2, || format!("{processes} processes"))
    })
    .await;
    held(&farm, 1.0).await;
    drop((socket, post));
    nothing_is_left(&farm).await;
    for spawn in spawns(&farm).await {
        assert_eq!(farm.ends(spawn["id"].as_str().unwrap()).await["reason"], "cancelled");
    }
    held(&farm, 0.0).await;
    farm.finish().await;
}

#[tokio::test]
async fn so_many_upgrades_are_held_and_no_more() {
    let plan = AgentPlan::slots(8).env("SC_SIM_READY_DELAY_MS", "20000");
    let farm = builder(&["--max-connections", "16"]).agent(plan).start().await;
    let client = hoops(&farm);
    let mut held_sockets = Vec::new();
    for _ in 0..4 {
        held_sockets.push(client.open(handshake("/", "").as_bytes()).await);
    }
    held(&farm, 4.0).await;
    let refused = says(client, &handshake("/", "")).await;
    assert!(refused.starts_with("HTTP/1.1 503 No ports available: too many viewers wait"), "{refused}");
    drop(held_sockets);
    nothing_is_left(&farm).await;
    farm.finish().await;
}
