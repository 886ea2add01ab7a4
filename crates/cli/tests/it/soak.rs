//! The soak tells a farm that is as it was from one that is not.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::process::run_at;
use crate::scripted::{Reply, Request, Server};

const ID: &str = "01987a5e-2f30-7c41-9d5c-0123456789ab";

fn nodes(used: u64) -> Value {
    json!({ "nodes": [{
        "id": "node-a", "eligibility": "eligible", "availability": "up", "slots": { "total": 8, "used": used },
        "gpus": [{ "index": 0, "total": 2, "used": 0 }], "pool": "default", "labels": {}, "version": "0.1.0",
        "epoch": ID, "advertise": "http://127.0.0.1:1", "endpoint": "ws://{host}:{port}",
        "load": { "cpu": 0.0, "memoryFreeBytes": 0 }, "lastHeartbeatAt": "2026-01-31T12:00:00.000Z",
    }] })
}

/// A farm that keeps one slot for each spawn from this one on, and whose memory grows with each.
fn farm(keeps_from: u64) -> Server {
    let asked = AtomicU64::new(0);
    Server::start(move |request: &Request| {
        let so_far = asked.load(Ordering::SeqCst);
        match (request.method.as_str(), request.path.split('?').next().unwrap()) {
            ("POST", _) => {
                asked.fetch_add(1, Ordering::SeqCst);
                Reply::json(
                    200,
                    json!({ "id": ID, "endpoint": "ws://x", "rendererType": "csr", "node": "node-a" }),
                )
            }
            ("DELETE", _) => Reply::json(202, "{}"),
            (_, "/v1/nodes") => Reply::json(200, nodes(1 + so_far.saturating_sub(keeps_from))),
            (_, "/v1/spawns") => Reply::json(200, json!({ "spawns": [] })),
            _ => Reply::json(200, format!("process_resident_memory_bytes {}\n# EOF\n", 1000 + so_far)),
        }
    })
}

#[test]
fn a_farm_that_is_as_it_was_passes() {
    let server = farm(1000);
    let url = server.url();
    let ran = run_at(&url, &["soak", "--count", "100", "--watch-admin", &url, "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let found = ran.json();
    assert_eq!((&found["load"]["ready"], &found["audit"]["passed"]), (&json!(100), &json!(true)));
    let node = &found["audit"]["nodes"][0];
    assert_eq!((&node["slotsBefore"], &node["slotsAfter"]), (&json!(1), &json!(1)), "{found}");
    let memory = &found["memory"][0];
    assert_eq!((&memory["first"], &memory["last"]), (&json!(1000), &json!(1100)), "{found}");
    assert!(memory["atTenth"].as_u64().unwrap() >= 1010, "{found}");
}

#[test]
fn whatever_is_left_over_is_named_and_fails() {
    let server = farm(15);
    let ran = run_at(&server.url(), &["soak", "--count", "20", "--settle", "300ms"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("LEFT OVER: node-a: 6 slots are taken, 1 were"), "{ran:?}");
}

#[test]
fn an_address_without_figures_is_refused_before_the_load() {
    let (server, other) = (farm(1000), Server::start(|_| Reply::json(200, "{}")));
    let ran = run_at(&server.url(), &["soak", "--count", "20", "--watch-admin", &other.url()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("is it an admin address?"), "{ran:?}");
    assert!(server.seen().iter().all(|request| request.method != "POST"));
}
