//! Messages that a viewer and its server compress (RFC 7692) pass the relay as they are: it reads no message.
//!
//! The viewer is Chromium, which negotiates `permessage-deflate` by itself. The simulator does not, as the vendor's server, so another
//! program stands in for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use hatchery_tests::{AgentPlan, Browser, Farm, skipped};
use serde_json::{Value, json};

const SERVER: &str = include_str!("relay_compressed/server.py");

#[tokio::test]
async fn compression_is_between_a_browser_and_its_server_alone() {
    if Command::new("python3").arg("--version").output().is_err() {
        skipped("compression through the relay", "there is no python3");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = directory.path().join("server.py");
    fs::write(&server, SERVER).unwrap();
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
    let flags = ["--public-url", "http://viewers.example.com", "--cors-origin", "*"];
    let farm = Farm::builder().door_args(&flags).agent(AgentPlan::slots(1).executable(server)).start().await;
    let answer = farm.door(0).spawned(&json!({})).await;
    let path = answer["endpoint"].as_str().unwrap().strip_prefix("ws://viewers.example.com").unwrap();
    let browser = Browser::start(800, 600).await;
    browser.open(&format!("http://{}/healthz", farm.doors[0].admin.addr)).await;
    // A message that is far larger than what passes, as three times the same.
    let script = "globalThis.answers = [];
        globalThis.socket = new WebSocket(arguments[0]);
        socket.onmessage = ({ data }) => answers.push(data);
        socket.onclose = () => { globalThis.gone = true; };
        socket.onopen = () => { for (let at = 0; at < 3; at += 1) socket.send(`${at} `.repeat(5_000)); };";
    browser.run_with(script, &json!([format!("ws://{}{path}", farm.door(0).addr)])).await;
    browser.holds("answers.length === 3 || globalThis.gone").await;
    let whole =
        "return answers.map((answer, at) => answer === `${at} `.repeat(5_000) || answer.slice(0, 40));";
    assert_eq!(browser.run(whole).await, json!([true, true, true]));
    let agreed = browser.run("return socket.extensions;").await;
    assert!(agreed.as_str().is_some_and(|agreed| agreed.starts_with("permessage-deflate")), "{agreed}");
    assert_eq!(browser.run("return globalThis.gone ?? null;").await, Value::Null);
    browser.run("socket.close();").await;
    assert_eq!(farm.ends(answer["id"].as_str().unwrap()).await["reason"], "disconnected");
    let passed = farm.doors[0].metrics().await.sum("hatchery_frontdoor_relay_passed_bytes_total");
    assert!(
        passed > 0.0 && passed < 3_000.0,
        "{passed} bytes of 60 000 passed: they were not compressed all the way"
    );
    farm.finish().await;
}
