//! Who calls: where the command finds its credential, where it sends it, and what it says when that is not accepted.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Ran, hatchery, run, run_at};
use crate::scripted::{Reply, Server};

const ID: &str = "01987a5e-2f30-7c41-9d5c-0123456789ab";

fn done(mut command: Command) -> Ran {
    command.output().unwrap().into()
}

fn at(server: &Server, args: &[&str]) -> Command {
    let mut command = hatchery(args);
    command.env("HATCHERY_SERVER", server.url());
    command
}

/// A directory with files of these names and contents.
fn files(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn problem(status: u16, code: &str, detail: &str) -> Reply {
    let body = json!({
        "type": "about:blank", "title": "t", "status": status, "detail": detail, "code": code, "requestId": "r1",
    });
    Reply::Answer { status, kind: "application/problem+json", body: body.to_string() }
}

/// An answer to whatever any command may ask first.
fn anything() -> Server {
    Server::start(|request| match request.line().as_str() {
        "POST /spawn" => Reply::json(
            200,
            json!({ "id": ID, "endpoint": "ws://node-a:55000", "rendererType": "csr", "node": "node-a" }),
        ),
        line if line.ends_with("/log?lines=100") => Reply::text("a line"),
        line if line.starts_with("GET /v1/nodes") => Reply::json(200, json!({ "nodes": [] })),
        line if line.starts_with("GET /v1/spawns") => Reply::json(200, json!({ "spawns": [] })),
        _ => problem(404, "not-found", "no"),
    })
}

#[test]
fn every_call_of_every_command_says_who_calls() {
    let directory = files(&[("token", "hatchery_abc_secret\nsecond line\n")]);
    let file = directory.path().join("token");
    for args in [
        &["spawn"][..],
        &["spawns"],
        &["show", ID],
        &["log", ID],
        &["stop", ID],
        &["nodes"],
        &["cordon", "node-a"],
        &["uncordon", "node-a"],
        &["drain", "node-a"],
        &["bench", "--count", "3", "--concurrency", "2"],
        &["soak", "--count", "2", "--settle", "1s"],
    ] {
        let server = anything();
        let ran = done({
            let mut command = at(&server, args);
            command.arg("--token-file").arg(&file);
            command
        });
        let seen = server.seen();
        assert!(!seen.is_empty(), "{args:?}: {ran:?}");
        for request in seen {
            assert_eq!(request.header("authorization"), Some("Bearer hatchery_abc_secret"), "{args:?}");
        }
        assert!(!format!("{ran:?}").contains("secret"), "{ran:?}");
    }
}

#[test]
fn the_flag_beats_the_token_in_the_environment_and_that_the_file_named_there() {
    let directory = files(&[("flag", "by-flag"), ("file", "by-file\r\n")]);
    let path = |name: &str| directory.path().join(name);
    let server = anything();
    let mut all = at(&server, &["nodes"]);
    all.env("HATCHERY_TOKEN", "by-variable").env("HATCHERY_TOKEN_FILE", path("file"));
    let mut both = at(&server, &["nodes"]);
    both.env("HATCHERY_TOKEN", " by-variable\n").env("HATCHERY_TOKEN_FILE", path("file"));
    all.arg("--token-file").arg(path("flag"));
    let mut file = at(&server, &["nodes"]);
    file.env("HATCHERY_TOKEN", "").env("HATCHERY_TOKEN_FILE", path("file"));
    let none = at(&server, &["nodes"]);
    for command in [all, both, file, none] {
        assert_eq!(done(command).code, 0);
    }
    let seen = server.seen();
    let sent: Vec<_> = seen.iter().map(|request| request.header("authorization")).collect();
    assert_eq!(sent, [Some("Bearer by-flag"), Some("Bearer by-variable"), Some("Bearer by-file"), None]);
}

#[test]
fn a_credential_that_is_none_is_an_error_that_names_where_it_was_looked_for_and_not_what_was_there() {
    let directory = files(&[("empty", "\n"), ("spaced", "my secret\n")]);
    let server = anything();
    for name in ["empty", "spaced", "missing"] {
        let path = directory.path().join(name);
        let mut flag = at(&server, &["nodes"]);
        flag.arg("--token-file").arg(&path);
        let mut variable = at(&server, &["nodes"]);
        variable.env("HATCHERY_TOKEN_FILE", &path);
        for (command, place) in [(flag, "--token-file"), (variable, "HATCHERY_TOKEN_FILE")] {
            let ran = done(command);
            assert_eq!(ran.code, 2, "{ran:?}");
            let begins = format!("error: invalid {place} {}: ", path.display());
            assert!(ran.stderr.starts_with(&begins), "{ran:?}");
            assert!(!ran.stderr.contains("secret"), "{ran:?}");
        }
    }
    let mut variable = at(&server, &["nodes"]);
    variable.env("HATCHERY_TOKEN", "my secret");
    let ran = done(variable);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.starts_with("error: invalid HATCHERY_TOKEN: ") && !ran.stderr.contains("secret"),
        "{ran:?}"
    );
    assert_eq!(server.lines(), Vec::<String>::new(), "nothing was called");
}

#[test]
fn a_token_on_the_command_line_is_refused_with_the_ways_that_there_are() {
    for args in [&["spawn", "--token", "hush"][..], &["--token=hush", "nodes"]] {
        let ran = run(args);
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains("--token-file FILE, HATCHERY_TOKEN_FILE or HATCHERY_TOKEN"), "{ran:?}");
        assert!(!ran.stderr.contains("hush"), "{ran:?}");
    }
}

#[test]
fn who_is_not_let_in_hears_why_and_how_to_say_who_calls() {
    let server = Server::always(problem(401, "unauthenticated", "a credential is missing."));
    let ran = run_at(&server.url(), &["spawn", "--json"]);
    assert_eq!((ran.code, &ran.json()["code"]), (4, &Value::from("unauthenticated")));
    assert!(ran.stderr.contains("a credential is missing"), "{ran:?}");
    assert!(ran.stderr.contains("\n  note: --token-file FILE, "), "{ran:?}");

    // Whoever gave one knows how.
    let server = Server::always(problem(401, "unauthenticated", "the credential has expired"));
    let mut command = at(&server, &["spawn"]);
    command.env("HATCHERY_TOKEN", "old");
    let ran = done(command);
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("has expired") && !ran.stderr.contains("note:"), "{ran:?}");
}

#[test]
fn what_a_caller_may_not_do_is_refused_in_the_front_doors_words() {
    for (status, code, detail) in [
        (403, "forbidden", "this needs the scope operate"),
        (429, "rate-limited", "60 spawns a minute are allowed"),
        (429, "quota-exceeded", "20 spawns at once are allowed"),
    ] {
        let server = Server::always(problem(status, code, detail));
        let ran = run_at(&server.url(), &["cordon", "node-a"]);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.stderr.contains(detail) && ran.stderr.contains(code), "{ran:?}");
        assert!(!ran.stderr.contains("note:"), "{ran:?}");
    }
}

#[test]
fn a_token_that_goes_unencrypted_to_another_machine_is_warned_of_once() {
    let command = |server: &str, token: &str| {
        let mut command = hatchery(&["nodes", "--timeout", "300ms", "--server", server]);
        command.env("HATCHERY_TOKEN", token);
        done(command).stderr
    };
    // An address that is nobody's.
    let said = command("http://192.0.2.1:9", "hush");
    assert_eq!(
        said.matches("warning: the token goes to http://192.0.2.1:9 unencrypted").count(),
        1,
        "{said}"
    );
    assert!(!said.contains("hush"), "{said}");
    for (server, token) in [("http://127.0.0.1:9", "hush"), ("http://192.0.2.1:9", "")] {
        let said = command(server, token);
        assert!(!said.contains("warning"), "{said}");
    }
}
