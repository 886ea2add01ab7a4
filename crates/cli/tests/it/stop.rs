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
    let delete = |id| format!("DELETE /v1/spawns/{id}");
    assert_eq!(server.lines(), [delete(GONE), delete(A), delete(B)]);

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
