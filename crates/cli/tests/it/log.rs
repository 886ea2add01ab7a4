//! Following a log.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::process::run_at;
use crate::scripted::{Reply, Server};

const ID: &str = "01987a5e-2f30-7c41-9d5c-0123456789ab";

/// A spawn whose log and state go on with each look; the last state stays.
fn looks(script: &'static [(&'static str, &'static str)]) -> Server {
    let look = AtomicUsize::new(0);
    Server::start(move |request| {
        let now = look.load(Ordering::SeqCst).min(script.len() - 1);
        let (state, log) = script[now];
        if request.path.contains("/log") {
            look.fetch_add(1, Ordering::SeqCst);
            return Reply::text(log);
        }
        Reply::json(
            200,
            json!({
                "id": ID, "node": "node-a", "endpoint": "ws://x", "rendererType": "csr", "state": state,
                "startedAt": "2026-01-01T00:00:00Z", "pool": "default",
            }),
        )
    })
}

#[test]
fn following_prints_only_what_is_new_and_ends_with_the_spawn() {
    let server = looks(&[
        ("launching", "old\na\nb\nhal\n"),
        ("ready", "old\na\nb\nhalf\n"),
        ("ready", "old\na\nb\nhalf\n"),
        ("exited", "old\na\nb\nhalf\nbye"),
    ]);
    let ran = run_at(&server.url(), &["log", ID, "-f", "-n", "2"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "a\nb\nhalf\nbye\n"), "{ran:?}");
}

#[test]
fn following_a_spawn_whose_node_goes_away_fails() {
    let server = looks(&[("ready", "a\n"), ("lost", "a\n")]);
    let ran = run_at(&server.url(), &["log", ID, "-f"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "a\n"), "{ran:?}");
    assert!(ran.stderr.contains("node node-a is gone"), "{ran:?}");
}

#[test]
fn what_a_server_wrote_steers_no_terminal_whatever_the_form() {
    let server = looks(&[("exited", "gpj.\u{202e}exe\u{1b}[2J\u{9b}2J\n")]);
    let ran = run_at(&server.url(), &["log", ID]);
    assert_eq!(ran.stdout, "gpj.\\u{202e}exe\\u{1b}[2J\\u{9b}2J\n", "{ran:?}");
    let ran = run_at(&server.url(), &["log", ID, "--json"]);
    assert_eq!(ran.stdout, "{\"line\":\"gpj.\\u202eexe\\u001b[2J\\u009b2J\"}\n", "{ran:?}");
}
