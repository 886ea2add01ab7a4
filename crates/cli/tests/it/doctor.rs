//! `hatchery doctor` where something else answers for the front door, and where a file hangs.

use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use model::api::ErrorCode;
use serde_json::{Value, json};

use crate::process::{Ran, hatchery};
use crate::scripted::{Reply, Server, problem};

fn doctor(server: &Server, token: &str) -> Ran {
    let mut command = hatchery(&["doctor", "--json", "--server", &server.url()]);
    command.env("HATCHERY_TOKEN", token).output().unwrap().into()
}

/// The level of the finding on the credential, and its text.
fn credential(ran: &Ran) -> (String, String) {
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap();
    let found: Vec<&Value> = findings.iter().filter(|finding| finding["check"] == "credential").collect();
    assert_eq!(found.len(), 1, "{ran:?}");
    (found[0]["level"].as_str().unwrap().to_owned(), found[0]["found"].as_str().unwrap().to_owned())
}

fn ready() -> Reply {
    Reply::json(
        200,
        json!({"status": "ready", "dependencies": {"registry": {"state": "up", "backend": "redis"}}}),
    )
}

#[test]
fn what_a_load_balancer_refuses_shows_neither_a_good_credential_nor_a_bad_one() {
    for status in [401, 403, 404, 429, 502, 503] {
        let server = Server::start(move |request| match request.path.as_str() {
            "/readyz" => ready(),
            _ => Reply::Answer { status, kind: "text/html", body: "<html>".into() },
        });
        let ran = doctor(&server, "some-key");
        let (level, found) = credential(&ran);
        assert_eq!(level, "warning", "{status}: {ran:?}");
        assert!(
            found.starts_with("whether the credential is accepted could not be found out"),
            "{status}: {found}"
        );
    }
}

#[test]
fn a_scope_whose_calls_a_load_balancer_keeps_back_is_neither_had_nor_lacking() {
    let server = Server::start(|request| match (request.method.as_str(), request.path.as_str()) {
        (_, "/readyz") => ready(),
        ("POST", "/spawn") => problem(ErrorCode::InvalidRequest),
        _ => Reply::Answer { status: 403, kind: "text/html", body: "<html>".into() },
    });
    let (level, found) = credential(&doctor(&server, "some-key"));
    assert_eq!(level, "warning", "{found}");
    assert!(found.contains("its scopes: spawn; could not be found out: read, operate"), "{found}");
}

#[test]
fn the_codes_of_a_front_door_show_the_scopes() {
    let server = Server::start(|request| match (request.method.as_str(), request.path.as_str()) {
        (_, "/readyz") => ready(),
        ("GET", "/v1/nodes") if request.header("authorization").is_some() => {
            Reply::json(200, json!({"nodes": []}))
        }
        ("POST", "/spawn") => problem(ErrorCode::Forbidden),
        ("DELETE", _) => problem(ErrorCode::NotFound),
        _ => problem(ErrorCode::Unauthenticated),
    });
    let (level, found) = credential(&doctor(&server, "some-key"));
    assert_eq!(
        (level.as_str(), found.as_str()),
        ("ok", "the credential is accepted; its scopes: read, operate")
    );
}

#[test]
fn an_answer_that_is_no_list_of_nodes_says_nothing() {
    let server = Server::start(|request| match request.path.as_str() {
        "/readyz" => ready(),
        _ => Reply::json(200, json!({"hello": "world"})),
    });
    let (level, found) = credential(&doctor(&server, "some-key"));
    assert_eq!(level, "warning", "{found}");
}

#[test]
fn a_file_with_a_token_that_hangs_is_a_finding_and_no_wait_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("token");
    // Opening a pipe that nothing writes to waits for a writer.
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let server = Server::always(ready());
    let began = Instant::now();
    let mut command = hatchery(&["doctor", "--json", "--timeout", "300ms", "--server", &server.url()]);
    let ran: Ran = command.arg("--token-file").arg(&pipe).output().unwrap().into();
    assert!(began.elapsed() < Duration::from_secs(20), "{ran:?}");
    assert_eq!(ran.code, 1, "{ran:?}");
    let (level, found) = credential(&ran);
    assert!(level == "problem" && found.contains("300ms"), "{found}");
}
