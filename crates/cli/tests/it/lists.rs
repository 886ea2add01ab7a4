//! Tables for people, JSON for programs.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::process::run_at;
use crate::scripted::{Reply, Server};

/// RFC 3339, this long ago.
fn ago(seconds: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::now() - Duration::from_secs(seconds)).to_string()
}

fn id(number: usize) -> String {
    format!("01987a5e-2f30-7c41-9d5c-{number:012}")
}

fn spawn(number: usize) -> Value {
    json!({
        "id": id(number), "node": "node-a", "endpoint": format!("ws://node-a:{}", 55_000 + number),
        "rendererType": "csr", "state": "ready", "startedAt": ago(192), "readyAt": ago(191), "pool": "default",
        "later": "a field of a later version",
    })
}

fn node(name: &str) -> Value {
    json!({
        "id": name, "eligibility": "draining", "availability": "up", "slots": { "total": 32, "used": 3 },
        "gpus": [{ "index": 0, "total": 4, "used": 1 }, { "index": 1, "total": 4, "used": 2 }],
        "pool": "default", "labels": { "sdk": "2025.1" }, "version": "0.1.0", "epoch": id(0),
        "advertise": "http://10.0.0.7:7070", "endpoint": "ws://node-a:{port}",
        "load": { "cpu": 0.254, "memoryFreeBytes": 3_435_973_836_u64 }, "lastHeartbeatAt": ago(0),
        "drain": { "deadline": ago(0), "remaining": 3, "reason": "new kernel", "startedAt": ago(60) },
    })
}

#[test]
fn spawns_are_a_table_without_lines() {
    let mut failed = spawn(2);
    failed["state"] = "exited".into();
    failed["exit"] = json!({ "reason": "failed", "code": 6, "text": "invalid license" });
    failed["endedAt"] = ago(190).into();
    let server = Server::always(Reply::json(200, json!({ "spawns": [spawn(1), failed] })));
    let ran = run_at(&server.url(), &["spawns", "--node", "node-a", "--state", "ready"]);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "NODE", "STATE", "AGE", "RENDERER", "ENDPOINT", "ENDED"]);
    assert_eq!(lines[1][..3], [&id(1), "node-a", "ready"]);
    assert_eq!(lines[1][4..], ["csr", "ws://node-a:55001"]);
    assert!(lines[1][3].starts_with("3m1"), "{ran:?}");
    assert_eq!(lines[2][5..], ["ws://node-a:55002", "failed", "after", "2s"]);
    assert_eq!(lines.len(), 3);
    assert_eq!(server.lines(), ["GET /v1/spawns?limit=100&node=node-a&state=ready"]);
}

#[test]
fn cursors_are_followed_until_the_limit_is_reached() {
    let server = Server::start(|request| {
        let page = match request.path.split("cursor=").nth(1) {
            None => 0,
            Some("p%2F1") => 1,
            Some(other) => panic!("cursor {other}"),
        };
        let spawns: Vec<Value> = (0..1000).map(|n| spawn(page * 1000 + n)).collect();
        Reply::json(200, json!({ "spawns": spawns, "nextCursor": "p/1" }))
    });
    let ran = run_at(&server.url(), &["spawns", "--limit", "1500", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let list = ran.json();
    let spawns = list["spawns"].as_array().unwrap();
    assert_eq!(spawns.len(), 1500);
    assert_eq!(spawns[1499]["id"], id(1499));
    assert_eq!(spawns[0]["later"], "a field of a later version");
    assert_eq!(list["nextCursor"], "p/1");
    assert_eq!(
        server.lines(),
        ["GET /v1/spawns?limit=1000", "GET /v1/spawns?limit=500&cursor=p%2F1"],
        "no more than is wanted"
    );
}

#[test]
fn the_last_page_ends_the_list() {
    let server = Server::start(|request| {
        if request.path.contains("cursor") {
            Reply::json(200, json!({ "spawns": [spawn(2)] }))
        } else {
            Reply::json(200, json!({ "spawns": [], "nextCursor": "c" }))
        }
    });
    let ran = run_at(&server.url(), &["spawns", "--json"]);
    assert_eq!(ran.json()["spawns"].as_array().unwrap().len(), 1);
    assert!(ran.json().get("nextCursor").is_none());
}

#[test]
fn nodes_are_a_table_and_one_node_is_a_page() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v1/nodes" => Reply::json(200, json!({ "nodes": [node("node-a"), node("b")] })),
        "/v1/nodes/node-a" => Reply::json(200, node("node-a")),
        other => panic!("{other}"),
    });
    let ran = run_at(&server.url(), &["nodes"]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        [
            "node-a",
            "draining",
            "up",
            "3/32",
            "3/8",
            "default",
            "sdk=2025.1",
            "25%",
            "3.2",
            "GiB",
            "0s",
            "ago",
            "0.1.0"
        ],
    );
    let ran = run_at(&server.url(), &["nodes", "node-a"]);
    for line in ["slots         3/32 used", "gpu           1: 2/4 used", "reason        new kernel"] {
        assert!(ran.stdout.contains(line), "{line}: {}", ran.stdout);
    }
    let ran = run_at(&server.url(), &["nodes", "--json"]);
    assert_eq!(ran.json()["nodes"][1]["id"], "b");
}

#[test]
fn a_spawn_is_shown_with_its_history() {
    let mut whole = spawn(7);
    let start = whole["startedAt"].clone();
    whole["state"] = "exited".into();
    whole["exit"] = json!({ "reason": "signaled", "signal": "SIGKILL" });
    whole["events"] = json!([
        { "seq": 1, "at": start, "kind": "spawn.launching", "spawn": id(7), "node": "node-a" },
        { "seq": 2, "at": ago(191), "kind": "spawn.ready", "spawn": id(7), "endpoint": "ws://x" },
    ]);
    let server = Server::always(Reply::json(200, whole.clone()));
    let ran = run_at(&server.url(), &["show", &id(7)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for piece in
        ["ended as  signaled, SIGKILL", "AFTER  EVENT", "+0.000s  spawn.launching", "endpoint=ws://x"]
    {
        assert!(ran.stdout.contains(piece), "{piece}: {}", ran.stdout);
    }
    assert_eq!(run_at(&server.url(), &["show", &id(7), "--json"]).json(), whole);
    assert_eq!(server.lines()[0], format!("GET /v1/spawns/{}", id(7)));
}
