use std::time::Duration;

use super::{Death, Fatal, KEYS, Misbehaviour};

fn read(environment: &[(&str, &str)], token: Option<&str>) -> Result<Misbehaviour, String> {
    let environment = environment.iter().map(|(k, v)| (k.into(), v.into()));
    Misbehaviour::new(environment, token).map_err(|failure| failure.message)
}

#[test]
fn without_a_request_the_server_behaves() {
    let environment = [("PATH", "/bin"), ("SC_SIMILAR", "x")];
    for token in [None, Some("a-token"), Some("sim:"), Some("sim")] {
        assert_eq!(read(&environment, token), Ok(Misbehaviour::default()), "{token:?}");
    }
}

#[test]
fn a_token_wins_over_the_environment() {
    let environment =
        [("SC_SIM_READY_DELAY_MS", "5"), ("SC_SIM_CRASH_CODE", "7"), ("SC_SIM_NEVER_READY", "1")];
    let asked = read(&environment, Some("sim:ready_delay_ms=9,crash_signal=SEGV")).unwrap();
    assert_eq!(asked.ready_delay, Duration::from_millis(9));
    assert_eq!(asked.crash, Some(Death::Signal(Fatal::Segv)));
    assert!(asked.never_ready);
}

#[test]
fn every_documented_key_changes_something() {
    for (key, _) in KEYS {
        let changes = ["1", "KILL"].iter().any(|value| {
            let token = format!("sim:{key}={value}");
            read(&[], Some(&token)).is_ok_and(|asked| asked != Misbehaviour::default())
        });
        assert!(changes, "{key}");
        let documentation = include_str!("../lib.rs");
        assert!(documentation.contains(&format!("//! | `{key}` |")), "{key}");
    }
}

#[test]
fn a_request_that_cannot_be_understood_is_an_error() {
    let unknown = "for a switch the simulator knows (see --help)";
    let table = [
        ("never_ready", "'never_ready' of the session token is not of the form key=value".to_owned()),
        ("nonsense=1", format!("'nonsense' of the session token: '1' is not {unknown}")),
        ("never_ready=2", "'never_ready' of the session token: '2' is not a yes or no".to_owned()),
        ("never_ready=1,never_ready=1", "'never_ready' of the session token is given twice".to_owned()),
        (
            "ready_delay_ms=-1",
            "'ready_delay_ms' of the session token: '-1' is not a number of milliseconds below 2^32"
                .to_owned(),
        ),
        (
            "exit_before_ready=256",
            "'exit_before_ready' of the session token: '256' is not an exit code from 0 to 255".to_owned(),
        ),
        ("fail_ratio=1.1", "'fail_ratio' of the session token: '1.1' is not a number from 0 to 1".to_owned()),
        ("fail_ratio=NaN", "'fail_ratio' of the session token: 'NaN' is not a number from 0 to 1".to_owned()),
        (
            "crash_signal=HUP",
            "'crash_signal' of the session token: 'HUP' is not KILL, SEGV or ABRT".to_owned(),
        ),
        (
            "crash_code=1,crash_signal=KILL",
            "'crash_code' of the session token and 'crash_signal' of the session token exclude each other"
                .to_owned(),
        ),
    ];
    for (requests, message) in table {
        let token = format!("sim:{requests}");
        assert_eq!(read(&[], Some(&token)), Err(message), "{requests}");
    }
    assert_eq!(
        read(&[("SC_SIM_TYPO", "1")], None),
        Err(format!("environment variable SC_SIM_TYPO: '1' is not {unknown}"))
    );
}
