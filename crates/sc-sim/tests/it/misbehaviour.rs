//! Each misbehaviour, asked for by environment or by token.

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, test_kill_process};

use crate::process::sim;
use crate::receiver::{Manner, Receiver};
use crate::seen::until;
use crate::viewer::Viewer;

#[test]
fn a_slow_start_opens_its_port_late() {
    let receiver = Receiver::new(Manner::Keep);
    let started = Instant::now();
    let sim =
        sim().option("--liveliness-endpoint", &receiver.url("")).env("SC_SIM_READY_DELAY_MS", "300").run();
    sim.logs("settings.id");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, sim.port)).is_err());
    let ready = receiver.gets("ready");
    assert!(ready.at - started >= Duration::from_millis(300));
}

#[test]
fn a_failed_start_exits_with_the_code_asked_for() {
    let table = [
        ("6", 6, "invalid license"),
        ("4", 4, "Can't create lws context."),
        ("200", 200, "unknown exit-code"),
    ];
    for (value, code, message) in table {
        let mut sim = sim().env("SC_SIM_EXIT_BEFORE_READY", value).run();
        sim.ends_with(code);
        sim.stderr.wait_for(message, |line| line == message);
        sim.logs("initialization is not going well");
    }
}

#[test]
fn a_failed_start_may_take_its_time() {
    let started = Instant::now();
    let mut sim = sim().option("--session-token", "sim:exit_before_ready=3,exit_delay_ms=300").run();
    sim.ends_with(3);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_ratio_of_one_always_fails_and_of_zero_never() {
    let mut fails = sim().env("SC_SIM_FAIL_RATIO", "1").run();
    fails.ends_with(3);
    let succeeds = sim().env("SC_SIM_FAIL_RATIO", "0").run();
    succeeds.listens();
}

#[test]
fn a_server_that_is_never_ready_still_ends_by_initial_use() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url(""))
        .option("--initial-use-duration", "1")
        .env("SC_SIM_NEVER_READY", "1")
        .run();
    sim.logs("initialization hangs, as asked");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, sim.port)).is_err());
    sim.ends_with(0);
    assert!(receiver.targets().is_empty());
}

#[test]
fn a_server_gone_silent_still_serves_and_never_reports_its_disconnect() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url(""))
        .option("--liveliness-update-frequency", "0.05")
        .env("SC_SIM_SILENT_AFTER_MS", "0")
        .run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("");
    viewer.receives_json();
    viewer.leaves();
    sim.ends_with(0);
    assert_eq!(receiver.targets(), ["POST /spawn-1?liveliness=ready"]);
}

#[test]
fn a_server_that_ignores_sigterm_needs_sigkill() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url(""))
        .option("--liveliness-update-frequency", "0.05")
        .option("--session-token", "sim:ignore_term=1")
        .run();
    receiver.gets("ready");
    sim.signal(Signal::TERM);
    receiver.gets_one_after(Instant::now() + Duration::from_millis(200));
    assert!(sim.is_running());
    sim.signal(Signal::KILL);
    assert_eq!(sim.ends().signal(), Some(9));
}

#[test]
fn a_grandchild_outlives_the_server_and_does_not_hold_its_port() {
    let mut first = sim().env("SC_SIM_FORK_GRANDCHILD", "1").run();
    let line = first.logs("grandchild pid: ");
    let pid = line.rsplit(' ').next().and_then(|pid| pid.parse().ok());
    let grandchild = Pid::from_raw(pid.unwrap()).unwrap();
    first.listens();
    first.signal(Signal::TERM);
    first.ends();
    assert!(test_kill_process(grandchild).is_ok());
    until("the port to be free", || std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, first.port)).ok());
    // Its group is the server's, so whoever ends the group reaches it.
    drop(first);
    until("the grandchild to be gone", || is_gone(grandchild).then_some(()));
}

/// A process that was killed may stay as a zombie where nobody reaps orphans.
fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_flood_fills_stdout_while_the_server_serves() {
    for rate in ["0", "100000"] {
        let sim = sim().env("SC_SIM_FLOOD_BYTES_PER_SEC", rate).run();
        sim.stdout.wait_until("a hundred lines of flood", |lines| {
            let flood = lines.iter().filter(|line| line.starts_with("flood: "));
            (flood.count() >= 100).then_some(())
        });
        let mut viewer = until("a handshake", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, sim.port)).ok()?;
            Viewer::connect(&sim, "/", None).ok()
        });
        viewer.open_model("");
        viewer.receives_json();
    }
}

#[test]
fn a_server_may_report_its_disconnect_and_stay() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url(""))
        .env("SC_SIM_DISCONNECT_NO_EXIT", "1")
        .env("SC_SIM_DISCONNECT_AFTER_MS", "100")
        .run();
    receiver.gets("disconnect");
    sim.logs("staying although nothing is left to do");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, sim.port)).is_err());
    assert!(sim.is_running());
}

#[test]
fn a_server_may_stay_after_its_viewer_left() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim =
        sim().option("--liveliness-endpoint", &receiver.url("")).env("SC_SIM_DISCONNECT_NO_EXIT", "1").run();
    sim.listens();
    Viewer::client_side(&sim).leaves();
    receiver.gets("disconnect");
    sim.logs("staying although nothing is left to do");
    assert!(sim.is_running());
}

#[test]
fn a_server_may_end_as_if_its_viewer_had_left() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url(""))
        .option("--session-token", "sim:disconnect_after_ms=50")
        .run();
    sim.ends_with(0);
    receiver.gets("disconnect");
}

#[test]
fn a_crash_ends_the_server_without_a_report() {
    let table = [
        ("crash_after_ms=50", Some(1), None),
        ("crash_after_ms=50,crash_code=9", Some(9), None),
        ("crash_after_ms=50,crash_signal=KILL", None, Some(9)),
        ("crash_after_ms=50,crash_signal=SEGV", None, Some(11)),
        ("crash_after_ms=50,crash_signal=ABRT", None, Some(6)),
    ];
    for (asked, code, signal) in table {
        let receiver = Receiver::new(Manner::Keep);
        let mut sim = sim()
            .option("--liveliness-endpoint", &receiver.url(""))
            .option("--session-token", &format!("sim:{asked}"))
            .run();
        let status = sim.ends();
        assert_eq!((status.code(), status.signal()), (code, signal), "{asked}");
        assert_eq!(receiver.targets(), ["POST /spawn-1?liveliness=ready"], "{asked}");
    }
}
