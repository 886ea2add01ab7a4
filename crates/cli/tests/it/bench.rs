//! The load generator counts exactly, and does not hide a slow server.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::api::ErrorCode;
use serde_json::json;

use crate::process::{Ran, hatchery, run_at};
use crate::scripted::{Reply, Request, Server, problem};

const ID: &str = "01987a5e-2f30-7c41-9d5c-0123456789ab";

fn ready() -> Reply {
    Reply::json(200, json!({ "id": ID, "endpoint": "ws://x", "rendererType": "csr", "node": "node-a" }))
}

fn farm(request: &Request) -> Reply {
    match request.method.as_str() {
        "POST" => ready(),
        _ => Reply::json(202, "{}"),
    }
}

/// What an answer takes.
#[expect(clippy::disallowed_methods, reason = "the server is slow on purpose, on a thread of its own")]
fn take(time: Duration) {
    std::thread::sleep(time);
}

fn count(server: &Server, method: &str) -> usize {
    server.seen().iter().filter(|r| r.method == method).count()
}

#[test]
fn a_closed_loop_asks_for_exactly_the_count_and_stops_each() {
    let server = Server::start(farm);
    let ran = run_at(&server.url(), &["bench", "--concurrency", "8", "--count", "500", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    assert_eq!((count(&server, "POST"), count(&server, "DELETE")), (500, 500));
    assert_eq!((&report["asked"], &report["ready"]), (&json!(500), &json!(500)));
    assert_eq!(report["outcomes"], json!({ "ready": 500 }));
    assert_eq!(report["stopOutcomes"], json!({ "stopped": 500 }));
    assert_eq!((&report["mode"], &report["concurrency"]), (&json!("closed"), &json!(8)));
    assert_eq!(report["spawnMicros"]["count"], 500);
    let micros = |field: &str| report["spawnMicros"][field].as_u64().unwrap();
    let order = [micros("min"), micros("p50"), micros("p90"), micros("p99"), micros("p999"), micros("max")];
    assert!(order.is_sorted() && order[0] > 0, "{order:?}");
    assert_eq!(ran.stderr, "", "no bar for programs");
}

#[test]
fn every_outcome_is_counted_under_its_code() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => match asked.fetch_add(1, Ordering::SeqCst) % 4 {
            0 => ready(),
            1 => problem(ErrorCode::NoCapacity),
            2 => problem(ErrorCode::SpawnFailed),
            _ => Reply::json(500, "odd"),
        },
        _ => Reply::json(200, "{}"),
    });
    let ran = run_at(&server.url(), &["bench", "--count", "40", "--json"]);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.json()["outcomes"],
        json!({ "ready": 10, "no-capacity": 10, "spawn-failed": 10, "unexpected-answer": 10 }),
    );
    assert_eq!(ran.json()["stopOutcomes"], json!({ "had-ended": 10 }));
}

#[test]
fn a_run_without_a_single_spawn_exits_with_what_happened_most() {
    let server = Server::always(problem(ErrorCode::NoCapacity));
    let ran = run_at(&server.url(), &["bench", "--count", "5"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stdout.contains("no-capacity"), "{ran:?}");
}

#[test]
fn without_stop_nothing_is_stopped() {
    let server = Server::start(farm);
    let ran = run_at(&server.url(), &["bench", "--count", "20", "--stop=false", "--renderer", "ssr"]);
    assert_eq!((ran.code, count(&server, "POST"), count(&server, "DELETE")), (0, 20, 0));
    assert_eq!(server.seen()[0].body, r#"{"rendererType":"ssr"}"#);
    assert!(ran.stdout.contains("20 of 20 asked for"), "{ran:?}");
}

#[test]
fn an_open_loop_keeps_its_schedule_whatever_the_answers_take() {
    // Each answer takes 100 ms, and 50 are asked for in a quarter of a second.
    let server = Server::start(|request| {
        take(Duration::from_millis(100));
        farm(request)
    });
    let ran = run_at(&server.url(), &["bench", "--rate", "200", "--count", "50", "--stop=false", "--json"]);
    let report = ran.json();
    assert_eq!((&report["ready"], &report["missed"]), (&json!(50), &json!(0)), "{ran:?}");
    let elapsed = report["elapsedSeconds"].as_f64().unwrap();
    assert!((0.3..3.0).contains(&elapsed), "one after the other would take five seconds: {elapsed}");
}

#[test]
fn a_stall_shows_in_every_request_it_delayed() {
    // The first answer stalls for 400 ms; with room for one in flight the rest is missed, and said so.
    let first = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if first.fetch_add(1, Ordering::SeqCst) == 0 {
            take(Duration::from_millis(400));
        }
        farm(request)
    });
    let args = ["bench", "--rate", "100", "--count", "30", "--max-in-flight", "1", "--stop=false", "--json"];
    let report = run_at(&server.url(), &args).json();
    let (asked, missed) = (report["asked"].as_u64().unwrap(), report["missed"].as_u64().unwrap());
    assert_eq!(asked + missed, 30, "{report}");
    assert!(missed >= 10, "{report}");
    assert!(report["spawnMicros"]["max"].as_u64().unwrap() >= 400_000, "{report}");
}

#[test]
fn the_duration_bounds_the_load() {
    let server = Server::start(farm);
    let ran = run_at(&server.url(), &["bench", "--duration", "300ms", "--json"]);
    let report = ran.json();
    let elapsed = report["elapsedSeconds"].as_f64().unwrap();
    assert!((0.3..5.0).contains(&elapsed), "{report}");
    assert_eq!(report["asked"].as_u64().unwrap(), u64::try_from(count(&server, "POST")).unwrap());
}

#[test]
fn an_interrupt_stops_what_is_held_and_reports() {
    let server = Server::start(farm);
    let child =
        hatchery(&["bench", "--concurrency", "3", "--hold", "1h", "--json", "--server", &server.url()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    crate::process::until("three are held", || count(&server, "POST") == 3);
    crate::process::signal(&child, "INT");
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!((ran.json()["interrupted"].clone(), count(&server, "DELETE")), (json!(true), 3));
}

#[test]
fn a_port_without_a_listener_is_counted_and_fails() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = run_at(&format!("http://{free}"), &["bench", "--count", "2", "--json"]);
    assert_eq!((ran.code, &ran.json()["outcomes"]), (1, &json!({ "unreachable": 2 })));
}
