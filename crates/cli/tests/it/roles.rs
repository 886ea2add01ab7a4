//! Front door and agent as processes of their own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};

use tempfile::TempDir;

use crate::process::{Ran, hatchery, signal};

/// Starts a role and waits for the line that says where it listens.
fn start(args: &[&str]) -> (Child, String) {
    let mut child = hatchery(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    if out.read_line(&mut line).unwrap() == 0 {
        panic!("{:?}", Ran::from(child.wait_with_output().unwrap()));
    }
    (child, line.trim_end().to_owned())
}

fn end(child: Child, name: &str) -> Ran {
    signal(&child, name);
    child.wait_with_output().unwrap().into()
}

const DOOR: [&str; 7] =
    ["frontdoor", "--registry", "embedded", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

#[test]
fn a_front_door_says_where_it_listens_and_ends_at_a_signal() {
    for name in ["TERM", "INT"] {
        let (child, line) = start(&DOOR);
        let words: Vec<&str> = line.split(' ').collect();
        let [_, "listening", "on", http, "admin", "on", admin] = words[..] else { panic!("{line}") };
        assert!(line.starts_with("frontdoor "), "{line}");
        let port =
            |url: &str| url.trim_end_matches(',').strip_prefix("http://127.0.0.1:").unwrap().to_owned();
        assert_ne!(port(http), "0");
        assert_ne!(port(admin), "0");
        let ran = end(child, name);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stderr.contains(&format!("SIG{name}")), "{ran:?}");
    }
}

#[test]
fn an_agent_says_where_it_listens_and_ends_at_a_signal() {
    let state = TempDir::new().unwrap();
    let state_dir = state.path().to_str().unwrap();
    let (child, line) = start(&[
        "agent",
        "--registry",
        "embedded",
        "--node",
        "node-x",
        "--executable",
        "/bin/true",
        "--state-dir",
        state_dir,
        "--listen",
        "127.0.0.1:0",
        "--liveliness-listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    let words: Vec<&str> = line.split(' ').collect();
    let ["agent", "node-x", "listening", "on", _, "liveliness", "on", _, "admin", "on", _] = words[..] else {
        panic!("{line}")
    };
    let ran = end(child, "TERM");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("SIGTERM"), "{ran:?}");
}

#[test]
fn a_port_in_use_names_the_flag_and_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut args = DOOR;
    args[4] = &address;
    let ran = Ran::from(hatchery(&args).output().unwrap());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("--listen") && ran.stderr.contains(&address), "{ran:?}");
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_wrong_setting_exits_with_2_and_names_the_flag() {
    for (args, names) in [
        (&["frontdoor", "--registry", "mysql://x"][..], "--registry"),
        (&["frontdoor", "--farm", "a b"], "--farm"),
        (&["frontdoor", "--listen", "nowhere"], "--listen"),
        (&["frontdoor", "--cors-origin", "nowhere"], "--cors-origin"),
        (&["frontdoor", "--log", "a=b=c"], "--log"),
        (&["agent"], "--executable"),
        (&["agent", "--executable", "/bin/true", "--slots", "0"], "--slots"),
    ] {
        let ran = Ran::from(hatchery(args).output().unwrap());
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(names), "{args:?}: {ran:?}");
    }
}

#[test]
fn log_lines_can_be_json() {
    let mut args = DOOR.to_vec();
    args.extend(["--log-format", "json"]);
    let (child, _) = start(&args);
    let ran = end(child, "TERM");
    assert!(!ran.stderr.is_empty());
    for line in ran.stderr.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}
