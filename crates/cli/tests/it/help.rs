//! Help is where people start.

use crate::process::run;

const COMMANDS: [&str; 24] = [
    "frontdoor",
    "agent",
    "relay",
    "dev",
    "spawn",
    "explain",
    "spawns",
    "show",
    "log",
    "stop",
    "nodes",
    "waiting",
    "audit",
    "watch",
    "cordon",
    "uncordon",
    "drain",
    "forget",
    "bench",
    "soak",
    "key",
    "token",
    "certs",
    "completions",
];

#[test]
fn the_first_page_names_every_command_and_the_exit_codes() {
    let ran = run(&["--help"]);
    assert_eq!(ran.code, 0);
    for command in COMMANDS {
        assert!(ran.stdout.contains(&format!("\n  {command} ")), "{command}: {}", ran.stdout);
    }
    assert!(ran.stdout.contains("Exit codes: 0 done, 1 failed, 2 usage"), "{}", ran.stdout);
}

#[test]
fn every_command_has_a_page_with_examples() {
    for command in COMMANDS {
        let ran = run(&[command, "--help"]);
        assert_eq!(ran.code, 0, "{command}");
        assert!(ran.stdout.contains("Examples:\n  hatchery "), "{command}: {}", ran.stdout);
        assert!(ran.stdout.lines().all(|line| line.chars().count() <= 120), "{command}: {}", ran.stdout);
    }
}

#[test]
fn the_version_is_reported() {
    let ran = run(&["--version"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("hatchery {}\n", env!("CARGO_PKG_VERSION"))));
}
