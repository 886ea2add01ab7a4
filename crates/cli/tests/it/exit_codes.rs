//! Every code is a contract with scripts.

use std::net::TcpListener;

use model::api::ErrorCode;
use serde_json::json;

use crate::process::{run, run_at};
use crate::scripted::{Reply, Server, problem};

const ID: &str = "01987a5e-2f30-7c41-9d5c-0123456789ab";

#[test]
fn every_problem_code_has_an_exit_code_a_sentence_and_the_request_id() {
    for (code, exit) in [
        (ErrorCode::InvalidRequest, 2),
        (ErrorCode::NotFound, 3),
        (ErrorCode::MethodNotAllowed, 1),
        (ErrorCode::IdempotencyConflict, 4),
        (ErrorCode::AlreadyConnected, 4),
        (ErrorCode::NodeUp, 4),
        (ErrorCode::BodyTooLarge, 2),
        (ErrorCode::UnsupportedMediaType, 1),
        (ErrorCode::Unauthenticated, 4),
        (ErrorCode::Forbidden, 4),
        (ErrorCode::RateLimited, 4),
        (ErrorCode::QuotaExceeded, 4),
        (ErrorCode::NoCapacity, 4),
        (ErrorCode::NoMatchingNode, 4),
        (ErrorCode::SpawnFailed, 1),
        (ErrorCode::ReadyTimeout, 5),
        (ErrorCode::RegistryUnavailable, 1),
        (ErrorCode::NodeUnreachable, 1),
        (ErrorCode::ShuttingDown, 1),
        (ErrorCode::Internal, 1),
    ] {
        let server = Server::always(problem(code));
        let ran = run_at(&server.url(), &["spawn"]);
        let word = code.as_str();
        assert_eq!(ran.code, exit, "{word}");
        assert_eq!(ran.stdout, "", "{word}");
        let sentence = format!("error: the detail of {word} ({word}, request req-4711)");
        assert_eq!(ran.stderr.lines().next(), Some(sentence.as_str()));
    }
}

#[test]
fn with_json_the_problem_goes_to_standard_output_as_it_came() {
    let server = Server::always(problem(ErrorCode::NoCapacity));
    let ran = run_at(&server.url(), &["spawn", "--json"]);
    assert_eq!(ran.code, 4);
    assert_eq!(ran.json()["code"], "no-capacity");
    assert_eq!(ran.json()["new"], "a field of a later version");
    assert!(ran.stderr.starts_with("error: "), "{ran:?}");
}

#[test]
fn a_failed_spawn_shows_what_the_process_wrote_last() {
    let server = Server::always(Reply::json(
        502,
        json!({
            "type": "about:blank", "title": "t", "status": 502, "detail": "the server ended: invalid license",
            "code": "spawn-failed", "requestId": "r", "reason": "failed", "exitCode": 6, "node": "node-a",
            "spawn": ID, "log": ["starting", "bad \u{1b}[31mlicense"],
        }),
    ));
    let ran = run_at(&server.url(), &["spawn"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr.lines().collect::<Vec<_>>(),
        [
            &*format!(
                "error: the server ended: invalid license (spawn-failed, node node-a, spawn {ID}, request r)"
            ),
            "  | starting",
            "  | bad \\u{1b}[31mlicense",
        ],
    );
}

#[test]
fn a_failed_spawn_shows_every_node_that_was_tried() {
    let server = Server::always(Reply::json(
        502,
        json!({
            "type": "about:blank", "title": "t", "status": 502, "detail": "the server ended",
            "code": "spawn-failed", "requestId": "r", "node": "node-b", "attempts": [
                { "node": "node-a", "code": "refused", "reason": "low memory" },
                { "node": "node-b", "code": "spawn-failed", "reason": "invalid license" },
            ],
        }),
    ));
    let ran = run_at(&server.url(), &["spawn"]);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(
        lines[1..],
        ["  tried node-a: low memory (refused)", "  tried node-b: invalid license (spawn-failed)"],
    );
}

#[test]
fn a_code_of_a_later_version_is_still_a_sentence() {
    let body = json!({ "detail": "the quota is used up", "code": "over-quota", "requestId": "r1" });
    let server = Server::always(Reply::json(429, &body));
    let ran = run_at(&server.url(), &["spawn", "--json"]);
    assert_eq!(ran.code, 4, "the status says that it was refused");
    assert!(ran.stderr.contains("the quota is used up (over-quota, request r1)"), "{ran:?}");
    assert_eq!(ran.json(), body);
}

#[test]
fn what_an_id_looks_like_is_for_the_front_door_to_say() {
    for args in [["show", "4711"], ["log", "a b/../c"], ["stop", "?"]] {
        let server = Server::always(problem(ErrorCode::NotFound));
        let ran = run_at(&server.url(), &args);
        assert_eq!(ran.code, 3, "{args:?}: {ran:?}");
    }
}

#[test]
fn something_that_is_no_front_door_is_named() {
    let server = Server::always(Reply::Answer { status: 404, kind: "text/html", body: "<html>".into() });
    let ran = run_at(&server.url(), &["show", ID]);
    assert_eq!(ran.code, 1, "not 3: nobody said that there is no such spawn");
    assert!(ran.stderr.contains("not how a front door says it"), "{ran:?}");

    let server = Server::always(Reply::text("<html>hello"));
    let ran = run_at(&server.url(), &["nodes"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("cannot read"), "{ran:?}");
}

#[test]
fn a_port_without_a_listener_is_a_failure_that_names_the_flag() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = run_at(&format!("http://{free}"), &["nodes"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        format!(
            "error: cannot reach http://{free}: connection refused (--server or HATCHERY_SERVER names the front \
             door)\n"
        ),
    );
}

#[test]
fn a_connection_that_breaks_is_a_failure() {
    let server = Server::always(Reply::HangUp);
    let ran = run_at(&server.url(), &["spawn"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("broke"), "{ran:?}");
}

#[test]
fn no_answer_in_time_is_a_timeout() {
    let server = Server::always(Reply::Silence);
    let ran = run_at(&server.url(), &["nodes", "--timeout", "200ms"]);
    assert_eq!(ran.code, 5);
    assert!(ran.stderr.contains("did not answer within 200ms"), "{ran:?}");
}

#[test]
fn a_command_line_that_is_wrong_names_what_is() {
    for (args, names) in [
        (&["spawn", "--renderer", "gpu"][..], "--renderer"),
        (&["spawn", "--label", "novalue"], "--label"),
        (&["spawn", "--label", "a=1,a=2"], "--label"),
        (&["spawn", "--wait", "61s"], "--wait"),
        (&["spawn", "--wait", "soon"], "--wait"),
        (&["spawn", "--idempotency-key", "a b"], "--idempotency-key"),
        (&["spawn", "--timeout", "0s"], "--timeout"),
        (&["spawns", "--limit", "0"], "--limit"),
        (&["spawns", "--state", "running"], "--state"),
        (&["spawns", "--node", "a/b"], "--node"),
        (&["show"], "<ID>"),
        (&["stop"], "<ID>"),
        (&["log", ID, "-n", "0"], "--lines"),
        (&["nodes", "a b"], "[NODE]"),
        (&["cordon"], "<NODE>"),
        (&["uncordon", "a b"], "<NODE>"),
        (&["drain", "node-a", "--deadline", "8d"], "--deadline"),
        (&["drain", "node-a", "--deadline", "soon"], "--deadline"),
        (&["drain", "node-a", "--reason", "a\nb"], "--reason"),
        (&["drain", "node-a", "--force", "--deadline", "1m"], "--force"),
        (&["--server", "door:8080", "nodes"], "--server"),
        (&["--server", "http://door", "agent"], "--server"),
        (&["--json", "completions", "bash"], "--json"),
        (&["bench", "--rate", "0"], "--rate"),
        (&["bench", "--rate", "5", "--concurrency", "2"], "--concurrency"),
        (&["bench", "--max-in-flight", "5"], "--rate"),
        (&["bench", "--count", "0"], "--count"),
        (&["completions", "tcsh"], "<SHELL>"),
        (&["--ca", "ca.pem", "completions", "bash"], "--ca"),
        (&["--token-file", "token", "agent"], "--token-file"),
        (&["nodes", "--server", "https://me@door"], "without a user"),
        (&["nodes", "--server", "door:8080"], "--server"),
        (&["agent", "--log-format", "xml"], "--log-format"),
        (&["frontdoor", "--log", "a=b=c"], "--log"),
        (&["hatch"], "hatch"),
        (&[], "Usage"),
    ] {
        let ran = run(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(names), "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{args:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_not_an_error() {
    use std::process::Stdio;
    let server = Server::always(Reply::text("line\n".repeat(50_000)));
    let mut child = crate::process::hatchery(&["log", ID, "--server", &server.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
