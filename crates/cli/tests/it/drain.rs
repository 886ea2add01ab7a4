//! Cordon, uncordon, drain, and waiting for a drain.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::api::ErrorCode;
use serde_json::{Value, json};

use crate::process::{Ran, hatchery, run, run_at, signal, until};
use crate::scripted::{Reply, Request, Server, problem};

fn answer(eligibility: &str, remaining: u32) -> Value {
    json!({ "node": "node-a", "eligibility": eligibility, "remaining": remaining, "agentAcknowledged": true })
}

fn draining(remaining: u32) -> Value {
    let mut answer = answer("draining", remaining);
    answer["deadline"] = "2026-01-31T12:00:00.000Z".into();
    answer
}

fn node(eligibility: &str, used: usize) -> Value {
    json!({
        "id": "node-a", "eligibility": eligibility, "availability": "up", "slots": { "total": 4, "used": used },
        "gpus": [], "pool": "default", "labels": {}, "version": "0.1.0",
        "epoch": "01987a5e-2f30-7c41-9d5c-0123456789ab", "advertise": "http://x", "endpoint": "ws://x",
        "load": { "cpu": 0.0, "memoryFreeBytes": 1 }, "lastHeartbeatAt": "2026-01-31T12:00:00.000Z",
    })
}

/// A farm whose node has this many spawns left at each look.
fn emptying(looks: &'static [usize]) -> Server {
    let look = AtomicUsize::new(0);
    Server::start(move |request: &Request| match request.method.as_str() {
        "POST" => Reply::json(200, draining(2)),
        _ => {
            let now = look.fetch_add(1, Ordering::SeqCst).min(looks.len() - 1);
            Reply::json(200, node("draining", looks[now]))
        }
    })
}

#[test]
fn a_node_is_closed_and_opened() {
    for (verb, eligibility) in [("cordon", "cordoned"), ("uncordon", "eligible")] {
        let server = Server::always(Reply::json(200, answer(eligibility, 3)));
        let ran = run_at(&server.url(), &[verb, "node-a"]);
        assert_eq!((ran.code, ran.stdout), (0, format!("node-a  {eligibility}, 3 running\n")));
        let [request] = &server.seen()[..] else { panic!("one request") };
        assert_eq!((request.line(), request.body.as_str()), (format!("POST /v1/nodes/node-a/{verb}"), ""));
        assert_eq!(run_at(&server.url(), &[verb, "node-a", "--json"]).json(), answer(eligibility, 3));
        let server = Server::always(problem(ErrorCode::NotFound));
        assert_eq!(run_at(&server.url(), &[verb, "node-a"]).code, 3);
    }
}

#[test]
fn who_has_closed_a_node_and_why_is_shown_with_the_node() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v1/nodes/node-a" => Reply::json(200, node("cordoned", 3)),
        "/v1/audit?node=node-a&order=cordon&limit=1" => Reply::json(
            200,
            json!({ "audit": [{ "at": "2026-01-31T12:00:00Z", "order": "cordon", "node": "node-a", "by": "ops",
                "requestId": "r1", "outcome": "done", "reason": "new disk" }] }),
        ),
        _ => Reply::json(200, answer("cordoned", 3)),
    });
    let ran = run_at(&server.url(), &["cordon", "node-a", "--reason", "new disk"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(server.seen()[0].body, r#"{"reason":"new disk"}"#);
    let shown = run_at(&server.url(), &["nodes", "node-a"]).stdout;
    for line in ["cordoned      2026-01-31T12:00:00.000Z", "reason        new disk", "asked by      ops"] {
        assert!(shown.lines().any(|shown| shown.starts_with(line)), "{line}: {shown}");
    }
}

#[test]
fn a_spawn_that_a_drain_has_ended_names_it_also_among_the_orders_about_it() {
    let id = "01987a5e-2f30-7c41-9d5c-0123456789ab";
    let server = Server::start(move |request| match request.path.as_str() {
        path if path.starts_with("/v1/audit") => Reply::json(200, json!({ "audit": [] })),
        _ => Reply::json(
            200,
            json!({ "id": id, "node": "node-a", "endpoint": "ws://x", "rendererType": "csr", "state": "exited",
                "startedAt": "2026-01-31T12:00:00Z", "pool": "default", "exit": { "reason": "drained" },
                "endedBy": { "order": "drain", "at": "2026-01-31T12:30:00Z", "by": "ops", "reason": "new kernel" } }),
        ),
    });
    let by = "drain of node-a by ops at 2026-01-31T12:30:00.000Z: new kernel";
    let shown = run_at(&server.url(), &["show", id]).stdout;
    assert!(shown.lines().any(|line| line == format!("ended by  {by}")), "{shown}");
    let orders = run_at(&server.url(), &["audit", "--spawn", id]).stdout;
    assert!(orders.ends_with(&format!("it was ended by the {by}\n")), "{orders}");
}

#[test]
fn a_drain_asks_for_exactly_what_the_flags_say() {
    let server = Server::always(Reply::json(200, draining(3)));
    let ran = run_at(&server.url(), &["drain", "node-a"]);
    let line = "node-a  draining, 3 running, deadline 2026-01-31T12:00:00.000Z\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, line, ""));
    run_at(&server.url(), &["drain", "node-a", "--deadline", "90500ms", "--reason", "new kernel"]);
    run_at(&server.url(), &["drain", "node-a", "--force"]);
    let bodies: Vec<Value> =
        server.seen().iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect();
    let expected =
        [json!({}), json!({ "deadlineSeconds": 91, "reason": "new kernel" }), json!({ "force": true })];
    assert_eq!(bodies, expected);
}

#[test]
fn a_node_that_is_down_is_not_waited_for() {
    let server = Server::start(|request: &Request| match (request.method.as_str(), request.path.as_str()) {
        ("POST", _) => Reply::json(200, draining(2)),
        (_, path) if path.starts_with("/v1/spawns?") => {
            assert_eq!(path, "/v1/spawns?limit=1000&node=node-a&state=lost");
            let spawn = |id: &str| {
                json!({
                    "id": id, "node": "node-a", "endpoint": "ws://x", "rendererType": "csr", "state": "lost",
                    "startedAt": "2026-01-31T12:00:00.000Z", "pool": "default",
                })
            };
            let ids = ["01987a5e-2f30-7c41-9d5c-0123456789ab", "01987a5e-2f30-7c41-9d5c-0123456789ac"];
            Reply::json(200, json!({ "spawns": ids.map(spawn) }))
        }
        _ => {
            let mut node = node("draining", 2);
            node["availability"] = "down".into();
            Reply::json(200, node)
        }
    });
    let ran = run_at(&server.url(), &["drain", "node-a", "--force", "--wait", "--timeout", "20s"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.ends_with(
        "node-a  down: nothing runs there for the farm, 2 spawns are lost; it stays closed if it comes back\n"
    ), "{ran:?}");
}

#[test]
fn an_agent_that_has_not_confirmed_is_named() {
    let mut silent = draining(3);
    silent["agentAcknowledged"] = false.into();
    let server = Server::always(Reply::json(200, silent));
    let ran = run_at(&server.url(), &["drain", "node-a"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("has not confirmed"), "{ran:?}");
}

#[test]
fn waiting_lasts_until_nothing_runs_any_more() {
    let server = emptying(&[2, 1, 1, 0]);
    let ran = run_at(&server.url(), &["drain", "node-a", "--wait"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "node-a  draining, 2 running, deadline 2026-01-31T12:00:00.000Z",
            "node-a  1 running",
            "node-a  drained"
        ]
    );
    let ran = run_at(&emptying(&[0]).url(), &["drain", "node-a", "--wait", "--json"]);
    assert_eq!((ran.code, ran.json()), (0, node("draining", 0)));
}

#[test]
fn waiting_outlasts_a_front_door_that_is_restarted() {
    let look = AtomicUsize::new(0);
    let server =
        Server::start(move |request| match (request.method.as_str(), look.fetch_add(1, Ordering::SeqCst)) {
            ("POST", _) => Reply::json(200, draining(1)),
            (_, 1) => problem(ErrorCode::ShuttingDown),
            (_, 2) => Reply::HangUp,
            (_, 3) => problem(ErrorCode::RegistryUnavailable),
            _ => Reply::json(200, node("draining", 0)),
        });
    let ran = run_at(&server.url(), &["drain", "node-a", "--wait"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_drain_that_is_undone_meanwhile_is_reported() {
    let server = Server::start(|request| match request.method.as_str() {
        "POST" => Reply::json(200, draining(1)),
        _ => Reply::json(200, node("eligible", 1)),
    });
    let ran = run_at(&server.url(), &["drain", "node-a", "--wait"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("is eligible now: the drain was undone"), "{ran:?}");
}

#[test]
fn waiting_ends_at_the_timeout_and_the_drain_goes_on() {
    let server = emptying(&[2]);
    let ran = run_at(&server.url(), &["drain", "node-a", "--wait", "--timeout", "300ms"]);
    assert_eq!(ran.code, 5);
    assert!(ran.stderr.contains("is not empty after 300ms; the drain goes on"), "{ran:?}");
}

#[test]
fn an_interrupted_wait_leaves_the_drain_running_and_says_so() {
    let server = emptying(&[2]);
    let child = hatchery(&["drain", "node-a", "--wait", "--server", &server.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("a look at the node", || server.lines().len() > 1);
    signal(&child, "INT");
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("the drain of node-a goes on, 2 running"), "{ran:?}");
    assert!(server.lines().iter().all(|line| !line.contains("uncordon")));
}

#[test]
fn the_front_door_may_be_named_before_the_command() {
    let server = Server::always(Reply::json(200, answer("cordoned", 3)));
    let ran = run(&["--server", &server.url(), "--json", "cordon", "node-a"]);
    assert_eq!((ran.code, ran.json()), (0, answer("cordoned", 3)));
    let ran = hatchery(&["--server", &server.url(), "cordon", "node-a"])
        .env("HATCHERY_SERVER", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(ran.status.success(), "the flag beats the environment");
    let ran = run(&["--server", "http://127.0.0.1:1", "cordon", "node-a", "--server", &server.url()]);
    assert_eq!(ran.code, 0, "the nearer flag counts");
    let ran: Ran =
        hatchery(&["cordon", "node-a"]).env("HATCHERY_SERVER", "door:8080").output().unwrap().into();
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("invalid HATCHERY_SERVER: expected http://host[:port]"), "{ran:?}");
}
