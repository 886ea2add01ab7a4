//! Stopping several at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use model::api::ErrorCode;
use serde_json::{Value, json};

use crate::process::run_at;
use crate::scripted::{Reply, Server, problem};

const A: &str = "01987a5e-2f30-7c41-9d5c-00000000000a";
const B: &str = "01987a5e-2f30-7c41-9d5c-00000000000b";
const GONE: &str = "01987a5e-2f30-7c41-9d5c-00000000000c";

fn spawn(id: &str, state: &str) -> Value {
    let mut spawn = json!({
        "id": id, "node": "node-a", "endpoint": "ws://x", "rendererType": "csr", "state": state,
        "startedAt": "2026-01-01T00:00:00Z", "pool": "default",
    });
    if state == "exited" {
        spawn["exit"] = json!({ "reason": "stopped", "signal": "SIGTERM" });
    }
    spawn
}

#[test]
fn each_is_stopped_and_the_worst_exit_code_counts() {
    let server = Server::start(|request| match request.path.rsplit('/').next().unwrap() {
        A => Reply::json(202, spawn(A, "stopping")),
        B => Reply::json(200, spawn(B, "exited")),
        _ => problem(ErrorCode::NotFound),
    });
    let ran = run_at(&server.url(), &["stop", GONE, A, B]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(ran.stdout, format!("{A}  stopping\n{B}  had ended already\n"));
    assert!(ran.stderr.contains("not-found"), "{ran:?}");
    let mut lines = server.lines();
    lines.sort();
    assert_eq!(lines, [A, B, GONE].map(|id| format!("DELETE /v1/spawns/{id}")));

    let ran = run_at(&server.url(), &["stop", A, "--json"]);
    assert_eq!((ran.code, ran.json()), (0, spawn(A, "stopping")));
}

#[test]
fn waiting_lasts_until_they_have_ended() {
    let looks = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.method.as_str() {
        "DELETE" => Reply::json(202, spawn(A, "stopping")),
        _ if looks.fetch_add(1, Ordering::SeqCst) < 2 => Reply::json(200, spawn(A, "stopping")),
        _ => Reply::json(200, spawn(A, "exited")),
    });
    let ran = run_at(&server.url(), &["stop", "--wait", A]);
    assert_eq!((ran.code, ran.stdout), (0, format!("{A}  stopped, SIGTERM\n")));
    assert_eq!(server.lines().len(), 4);
}

#[test]
fn waiting_has_a_limit() {
    let server = Server::always(Reply::json(200, spawn(A, "stopping")));
    let ran = run_at(&server.url(), &["stop", "--wait=300ms", A]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.contains("has not ended within 300ms"), "{ran:?}");
}

/// A front door with a list of spawns in these states, page by page, that stops what is there.
fn farm(states: &'static [&'static str]) -> Server {
    let id = |n: usize| format!("01987a5e-2f30-7c41-9d5c-{n:012}");
    Server::start(move |request| {
        let number = |path: &str| path.rsplit('-').next().and_then(|tail| tail.parse::<usize>().ok());
        match (request.method.as_str(), request.path.split('?').next().unwrap()) {
            ("GET", "/v1/spawns") => {
                let page = request.path.split("cursor=").nth(1).map_or(0, |cursor| cursor.parse().unwrap());
                let of_page = |n: &usize| n / 2 == page;
                let spawns: Vec<Value> =
                    (0..states.len()).filter(of_page).map(|n| spawn(&id(n), states[n])).collect();
                let mut list = json!({ "spawns": spawns });
                if (page + 1) * 2 < states.len() {
                    list["nextCursor"] = (page + 1).to_string().into();
                }
                Reply::json(200, list)
            }
            // The second one is busy again.
            ("GET", path) => match number(path).unwrap() {
                1 => Reply::json(200, spawn(&id(1), "ready")),
                n => Reply::json(200, spawn(&id(n), states[n])),
            },
            (_, path) => match number(path).unwrap() {
                3 => problem(ErrorCode::NodeUnreachable),
                n => Reply::json(202, spawn(&id(n), "stopping")),
            },
        }
    })
}

#[test]
fn those_that_match_and_have_not_ended_are_stopped_and_the_worst_exit_code_counts() {
    let server = farm(&["ready", "launching", "exited", "ready", "lost"]);
    let filter = ["--tag", "user=ann b", "--tag", "x=", "--owner", "web", "--node", "node-a"];
    let ran = run_at(&server.url(), &[&["stop"], &filter[..]].concat());
    assert_eq!(ran.code, 1, "one could not be stopped: {ran:?}");
    assert_eq!(ran.stdout.lines().count(), 3, "{ran:?}");
    let says = "stopping 4 spawns with tag user=ann b, with tag x=, of owner web, on node node-a";
    assert!(ran.stderr.starts_with(says) && ran.stderr.contains("node-unreachable"), "{ran:?}");
    let lines = server.lines();
    let query = "GET /v1/spawns?limit=1000&node=node-a&owner=web&tag=user%3Dann%20b&tag=x%3D";
    assert_eq!(lines[..2], [query.to_owned(), format!("{query}&cursor=1")]);
    assert_eq!(lines.iter().filter(|line| line.starts_with("DELETE")).count(), 4, "{lines:?}");
    assert!(!lines.iter().any(|line| line.ends_with("-000000000002")), "it has ended: {lines:?}");
}

#[test]
fn what_is_not_in_that_state_any_more_is_not_stopped() {
    let server = farm(&["suspect", "suspect"]);
    let ran = run_at(&server.url(), &["stop", "--state", "suspect", "--json"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 1), "{ran:?}");
    assert!(ran.stderr.contains("is ready now and was not stopped"), "{ran:?}");
    let deletes: Vec<String> = server.lines().into_iter().filter(|line| line.starts_with("DELETE")).collect();
    assert_eq!(deletes.len(), 1, "{deletes:?}");
    assert!(deletes[0].ends_with("-000000000000"), "{deletes:?}");
}

#[test]
fn everything_is_stopped_only_by_name() {
    let server = farm(&["ready"]);
    for args in
        [&["stop"][..], &["stop", A, "--all"], &["stop", A, "--node", "node-a"], &["stop", "--tag", "a"]]
    {
        let ran = run_at(&server.url(), args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains("--tag") || ran.stderr.contains("filter"), "{ran:?}");
    }
    assert!(server.lines().is_empty(), "{:?}", server.lines());
    let ran = run_at(&server.url(), &["stop", "--all"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "stopping 1 spawn\n"), "{ran:?}");
    let nothing = farm(&[]);
    let ran = run_at(&nothing.url(), &["stop", "--all", "--owner", "web"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "no spawn of owner web to stop\n"), "{ran:?}");
}

#[test]
fn a_caller_that_asks_too_often_goes_on_a_little_later() {
    let refusals = AtomicUsize::new(0);
    let server = Server::start(move |_| match refusals.fetch_add(1, Ordering::SeqCst) {
        0 => problem(ErrorCode::RateLimited),
        _ => Reply::json(202, spawn(A, "stopping")),
    });
    let ran = run_at(&server.url(), &["stop", A]);
    assert_eq!((ran.code, server.lines().len()), (0, 2), "{ran:?}");
}
