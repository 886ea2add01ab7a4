//! What goes over the wire, and what comes back of it.

use serde_json::{Value, json};

use crate::process::{hatchery, run_at};
use crate::scripted::{Reply, Server};

const ID: &str = "01987a5e-2f30-7c41-9d5c-0123456789ab";

fn answer() -> Value {
    json!({ "id": ID, "endpoint": "ws://node-a:55000", "rendererType": "ssr", "node": "node-a" })
}

#[test]
fn a_spawn_asks_for_exactly_what_the_flags_say() {
    let server = Server::always(Reply::json(200, answer()));
    let ran = run_at(
        &server.url(),
        &[
            "spawn",
            "--renderer",
            "ssr",
            "--model",
            "a/b.scs",
            "--pool",
            "big",
            "--label",
            "sdk=2025.1,os=linux",
            "--label",
            "fast=",
            "--tag",
            "user=ann,b",
            "--session-token",
            "secret",
            "--wait",
            "1500ms",
            "--idempotency-key",
            "k-1",
        ],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        ran.stdout,
        format!("endpoint  ws://node-a:55000\nid        {ID}\nnode      node-a\nrenderer  ssr\n"),
    );
    let [request] = &server.seen()[..] else { panic!("one request") };
    assert_eq!(request.line(), "POST /spawn");
    assert_eq!(request.header("idempotency-key"), Some("k-1"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let agent = format!("hatchery/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(request.header("user-agent"), Some(agent.as_str()));
    assert_eq!(
        serde_json::from_str::<Value>(&request.body).unwrap(),
        json!({
            "rendererType": "ssr", "model": "a/b.scs", "pool": "big", "sessionToken": "secret", "waitSeconds": 2,
            "labels": { "sdk": "2025.1", "os": "linux", "fast": "" }, "tags": { "user": "ann,b" },
        }),
    );
}

#[test]
fn a_plain_spawn_leaves_every_choice_to_the_farm() {
    let server = Server::always(Reply::json(200, answer()));
    let ran = run_at(&server.url(), &["spawn", "--json"]);
    assert_eq!((ran.code, ran.json()), (0, answer()));
    let [request] = &server.seen()[..] else { panic!("one request") };
    assert_eq!((request.body.as_str(), request.header("idempotency-key")), ("{}", None));
}

#[test]
fn the_flag_beats_the_environment_and_may_carry_a_prefix() {
    let server = Server::always(Reply::json(200, answer()));
    let url = format!("{}/farm/", server.url());
    let ran = hatchery(&["spawn", "--server", &url]).env("HATCHERY_SERVER", "http://127.0.0.1:1").output();
    assert!(ran.unwrap().status.success());
    assert_eq!(server.lines(), ["POST /farm/spawn"]);
}

#[test]
fn the_last_lines_of_a_log_are_printed_as_they_are() {
    let server = Server::always(Reply::text("one\ntwo"));
    let ran = run_at(&server.url(), &["log", ID, "-n", "7"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "one\ntwo\n"));
    let ran = run_at(&server.url(), &["log", ID, "--json"]);
    assert_eq!(ran.stdout, "{\"line\":\"one\"}\n{\"line\":\"two\"}\n");
    let path = format!("GET /v1/spawns/{ID}/log?lines=");
    assert_eq!(server.lines(), [format!("{path}7"), format!("{path}100")]);
}
