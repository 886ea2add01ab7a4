//! The end of an id for the id: how much of it is enough, and what is no end.

use std::sync::atomic::{AtomicUsize, Ordering};

use model::api::ErrorCode;
use serde_json::{Value, json};

use crate::process::run_at;
use crate::scripted::{Reply, Server, problem};

const ID: &str = "01987a5e-2f30-7c41-9d5c-b302099a8057";
const WITHOUT_HYPHENS: &str = "01987a5e2f307c419d5cb302099a8057";

fn spawn() -> Value {
    json!({
        "id": ID, "node": "node-a", "endpoint": "ws://x", "rendererType": "csr", "state": "ready",
        "startedAt": "2026-01-01T00:00:00Z", "pool": "default",
    })
}

fn server() -> Server {
    Server::start(|request| match (request.method.as_str(), request.path.as_str()) {
        ("DELETE", _) => Reply::json(202, spawn()),
        (_, path) if path.starts_with("/v1/spawns?") => Reply::json(200, json!({ "spawns": [spawn()] })),
        _ => Reply::json(200, spawn()),
    })
}

#[test]
fn what_ends_a_spawn_wants_more_of_its_id_than_what_reads_it() {
    let server = server();
    let ran = run_at(&server.url(), &["show", "8057"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for short in ["8057", "99a8057"] {
        let ran = run_at(&server.url(), &["stop", short]);
        assert!(ran.code == 2 && ran.stderr.contains("at least 8 characters"), "{ran:?}");
    }
    assert!(server.lines().iter().all(|line| !line.starts_with("DELETE")), "{:?}", server.lines());
    let ran = run_at(&server.url(), &["stop", "099a8057"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(server.lines().last().unwrap(), &format!("DELETE /v1/spawns/{ID}"));
}

#[test]
fn the_beginning_of_an_id_is_refused_with_words() {
    let server = server();
    for args in [["show", "01987a5e"], ["stop", "01987a5e-2f30"], ["log", "0198"]] {
        let ran = run_at(&server.url(), &args);
        assert!(ran.code == 2 && ran.stderr.contains("is the beginning of one id"), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_whole_id_without_hyphens_is_no_end() {
    let server = server();
    let ran = run_at(&server.url(), &["show", WITHOUT_HYPHENS]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(server.lines(), [format!("GET /v1/spawns/{WITHOUT_HYPHENS}")]);
}

#[test]
fn a_list_that_is_refused_as_one_call_too_many_is_read_again() {
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path.as_str() {
        path if path.starts_with("/v1/spawns?") => match calls.fetch_add(1, Ordering::SeqCst) {
            0 => problem(ErrorCode::RateLimited),
            _ => Reply::json(200, json!({ "spawns": [spawn()] })),
        },
        _ => Reply::json(200, spawn()),
    });
    let ran = run_at(&server.url(), &["show", "099a8057", "--json"]);
    assert!(ran.code == 0 && ran.json()["id"] == ID, "{ran:?}");
}
