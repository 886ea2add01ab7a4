//! The forms of a list: what is left out, failures, flags that contradict each other, and a list that follows the farm.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;

use model::api::ErrorCode;
use serde_json::{Value, json};
use tungstenite::Message;

use crate::process::{hatchery, run_at};
use crate::scripted::{Reply, Server, problem};

fn spawn(number: usize, node: &str) -> Value {
    json!({
        "id": format!("01987a5e-2f30-7c41-9d5c-{number:012}"), "node": node, "endpoint": "ws://x", "rendererType": "csr",
        "state": "ready", "startedAt": "2026-01-01T00:00:00Z", "pool": "default", "later": number,
    })
}

fn node(name: &str, pool: &str) -> Value {
    json!({
        "id": name, "eligibility": "eligible", "availability": "up", "slots": { "total": 2, "used": 1 }, "gpus": [],
        "pool": pool, "labels": {}, "version": "0.1.0", "epoch": "01987a5e-2f30-7c41-9d5c-000000000000",
        "advertise": "http://10.0.0.7:7070", "endpoint": "ws://node-a:{port}",
        "load": { "cpu": 0.2, "memoryFreeBytes": 1 }, "lastHeartbeatAt": "2026-01-01T00:00:00Z",
    })
}

#[test]
fn ids_alone_say_on_standard_error_what_was_left_out() {
    // Three pages of two.
    let server = Server::start(|request| {
        let from: usize = request.path.split("cursor=").nth(1).map_or(0, |cursor| cursor.parse().unwrap());
        let mut list = json!({ "spawns": [spawn(from, "node-a"), spawn(from + 1, "node-a")] });
        if from < 4 {
            list["nextCursor"] = (from + 2).to_string().into();
        }
        Reply::json(200, list)
    });
    for form in [&["-q"][..], &["-o", "name"]] {
        let args = [&["spawns", "--limit", "2", "--state", "ready"], form].concat();
        let ran = run_at(&server.url(), &args);
        assert_eq!((ran.code, ran.stdout.lines().count()), (0, 2), "{ran:?}");
        assert!(ran.stderr.contains("and 4 more"), "{ran:?}");
    }
    let all = run_at(&server.url(), &["spawns", "-q", "--all"]);
    assert!(all.stdout.lines().count() == 6 && all.stderr.is_empty(), "{all:?}");
}

#[test]
fn json_as_a_form_is_json_for_failures_too() {
    let server = Server::always(problem(ErrorCode::RegistryUnavailable));
    for args in [&["nodes", "-o", "json"][..], &["spawns", "-o", "json"], &["show", "?", "-o", "json"]] {
        let ran = run_at(&server.url(), args);
        assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
        assert_eq!(ran.json()["code"], "registry-unavailable", "{args:?}");
    }
}

#[test]
fn flags_that_say_different_forms_are_a_mistake() {
    let server = Server::always(Reply::json(200, json!({ "nodes": [], "spawns": [] })));
    for args in [
        &["nodes", "--json", "-o", "yaml"][..],
        &["--json", "spawns", "-o", "wide"],
        &["spawns", "--json", "-q"],
        &["show", "?", "--json", "-o", "name"],
    ] {
        let ran = run_at(&server.url(), args);
        assert!(ran.code == 2 && ran.stderr.contains("different forms"), "{args:?}: {ran:?}");
    }
    assert_eq!(run_at(&server.url(), &["nodes", "--json", "-o", "json"]).code, 0, "they say the same");
}

/// A live feed that answers a subscription with this snapshot, and says no more.
fn feed(snapshot: Value) -> String {
    feed_of(vec![snapshot])
}

/// The same with one snapshot after the other, as they are asked for.
fn feed_of(snapshots: Vec<Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(mut socket) = tungstenite::accept(stream) else { continue };
            let hello = json!({"type": "hello", "heartbeatSeconds": 30, "connection": "c"});
            socket.send(Message::text(hello.to_string())).ok();
            let mut next = 0;
            // Until the other end has gone.
            while let Ok(message) = socket.read() {
                let Ok(request) = serde_json::from_slice::<Value>(&message.into_data()) else { continue };
                if request["type"] != "subscribe" {
                    continue;
                }
                let snapshot = &snapshots[next.min(snapshots.len() - 1)];
                next += 1;
                let answer =
                    json!({"type": "subscribed", "topic": request["topic"], "snapshot": snapshot, "seq": 0});
                socket.send(Message::text(answer.to_string())).ok();
            }
        }
    });
    url
}

/// The first line of a command that goes on.
fn first_line(url: &str, args: &[&str]) -> Value {
    first_lines(url, args, 1).remove(0)
}

/// The first lines, each a value of its own.
fn first_lines(url: &str, args: &[&str], count: usize) -> Vec<Value> {
    let mut command = hatchery(args);
    let mut child = command.args(["--server", url]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(count);
    let lines = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

#[test]
fn a_list_for_programs_is_one_object_a_line_whenever_something_has_changed() {
    let with = |used: u32, heartbeat: &str| {
        let mut node = node("node-a", "gpu");
        (node["slots"]["used"], node["lastHeartbeatAt"]) = (used.into(), heartbeat.into());
        json!([node])
    };
    let url = feed_of(vec![
        with(0, "2026-01-01T00:00:00Z"),
        with(0, "2026-01-01T00:00:02Z"),
        with(1, "2026-01-01T00:00:04Z"),
    ]);
    let lines = first_lines(&url, &["nodes", "--watch", "--json"], 2);
    let used: Vec<&Value> = lines.iter().map(|line| &line["nodes"][0]["slots"]["used"]).collect();
    assert_eq!(used, [0, 1], "slots are no events, and a heartbeat alone is no change");
}

#[test]
fn a_list_for_programs_that_follows_the_farm_keeps_its_filter_and_order() {
    let url = feed(json!([spawn(1, "node-b"), spawn(2, "node-a"), spawn(3, "node-c")]));
    let of = |list: &Value, field: &str| -> Vec<Value> {
        let list = list.get("spawns").or(list.get("nodes"));
        list.unwrap().as_array().unwrap().iter().map(|one| one[field].clone()).collect()
    };
    let sorted = first_line(&url, &["spawns", "--watch", "--json", "--sort", "node", "--reverse"]);
    assert_eq!(of(&sorted, "node"), ["node-c", "node-b", "node-a"]);
    assert_eq!(of(&sorted, "later"), [3, 1, 2], "fields of a later version stay");
    let filtered = first_line(&url, &["spawns", "--watch", "-o", "json", "--node", "node-b"]);
    assert_eq!(of(&filtered, "node"), ["node-b"]);

    let url = feed(json!([node("node-a", "default"), node("node-b", "gpu"), node("node-c", "gpu")]));
    let nodes = first_line(&url, &["nodes", "--watch", "--json", "--pool", "gpu", "--reverse"]);
    assert_eq!(of(&nodes, "id"), ["node-c", "node-b"]);
}
