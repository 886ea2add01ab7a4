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

/// What is on the terminal in the end, of a command whose standard error is one.
fn on_a_terminal(server: &str, args: &str) -> String {
    let command = format!("{} {args}", env!("CARGO_BIN_EXE_hatchery"));
    let ran = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("HATCHERY_SERVER", server)
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("script, which gives a command a terminal, is there");
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn on_a_terminal_a_spawn_is_watched_and_for_programs_it_is_not() {
    let stream = format!(
        ":\n\nevent: queued\ndata: {{\"position\":3,\"estimateSeconds\":8}}\n\nevent: starting\ndata: {{\"node\":\"node-a\"}}\n\n\
         event: ready\ndata: {}\n\n",
        answer()
    );
    let server = Server::start(move |request| {
        if request.header("accept").is_some_and(|accept| accept.starts_with("text/event-stream")) {
            Reply::Answer { status: 200, kind: "text/event-stream", body: stream.clone() }
        } else {
            Reply::json(200, answer())
        }
    });
    let shown = on_a_terminal(&server.url(), "spawn");
    assert!(shown.contains("starting on node-a"), "{shown:?}");
    assert!(shown.contains("endpoint  ws://node-a:55000"), "{shown:?}");
    for args in [&["spawn"][..], &["spawn", "--json"]] {
        let ran = run_at(&server.url(), args);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    }
    let silent = on_a_terminal(&server.url(), "spawn --json");
    assert!(!silent.contains("starting"), "{silent:?}");
    let accepted: Vec<String> =
        server.seen().iter().map(|request| request.header("accept").unwrap().to_owned()).collect();
    assert_eq!(accepted[1..], ["*/*", "*/*", "*/*"], "{accepted:?}");
    assert_eq!(accepted[0], "text/event-stream, application/json;q=0.9");
}

#[test]
fn a_problem_at_the_end_of_a_watched_spawn_is_the_failure() {
    let problem = json!({ "type": "x", "title": "No", "status": 503, "detail": "every node is full", "code": "no-capacity",
        "requestId": "req-1" });
    let body = format!("retry: 2000\nevent: problem\ndata: {problem}\n\n");
    let server = Server::always(Reply::Answer { status: 200, kind: "text/event-stream", body });
    let shown = on_a_terminal(&server.url(), "spawn");
    assert!(shown.contains("every node is full (no-capacity, request req-1)"), "{shown:?}");
}
