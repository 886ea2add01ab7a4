//! What other machines can reach is not opened without TLS, unless the operator insists.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hatchery_tests::Role;
use hatchery_tests::role::hatchery;
use rustix::process::Signal;

use crate::tls::certs;

/// Runs a role that is to end at once; its exit code and what it said of it.
pub(crate) fn refused(mark: &Path, args: &[&str]) -> (i32, String) {
    let mut command = hatchery(mark);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    let (done, ended) = std::sync::mpsc::channel();
    let pid = child.id();
    // One that starts all the same would never end.
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(20)).is_err() {
            hatchery_tests::processes::signal(pid, Signal::KILL);
        }
    });
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
    let code = child.wait().unwrap().code().unwrap_or(-1);
    done.send(()).ok();
    watch.join().unwrap();
    (code, said)
}

#[test]
fn what_others_can_reach_is_not_opened_without_being_kept() {
    let certs = certs();
    let scratch = tempfile::tempdir().unwrap();
    let (pem, key, ca) = (certs.path("door.pem"), certs.path("door.key"), certs.path("ca.pem"));
    let keys = certs.path("keys");
    fs::write(&keys, "").unwrap();
    let other = certs.path("node-a.key");
    let state = scratch.path().to_str().unwrap();
    let door =
        ["frontdoor", "--registry", "embedded", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let open_door =
        ["frontdoor", "--registry", "embedded", "--admin-listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"];
    let open_admin =
        ["frontdoor", "--registry", "embedded", "--listen", "127.0.0.1:0", "--admin-listen", "0.0.0.0:0"];
    let agent = ["agent", "--registry", "embedded", "--start-nothing", "--node", "n", "--state-dir", state];
    let mtls = ["--tls-cert", &pem, "--tls-key", &key, "--tls-client-ca", &ca];
    let secure_agent = [agent.as_slice(), &mtls].concat();
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&open_door, &[], &["--listen", "--api-keys", "--tls-cert", "--insecure"]),
        (&open_door, &["--tls-cert", &pem, "--tls-key", &key], &["--listen", "--api-keys", "--insecure"]),
        (&open_door, &["--api-keys", &keys], &["--listen", "--tls-cert", "--insecure"]),
        (&open_admin, &[], &["--admin-listen", "--tls-cert", "--insecure"]),
        (&door, &["--tls-cert", &pem], &["--tls-key"]),
        (&door, &["--tls-cert", &pem, "--tls-key", &other], &["--tls-key", &other]),
        (&door, &["--tls-cert", "/missing.pem", "--tls-key", &key], &["--tls-cert", "/missing.pem"]),
        (&door, &["--registry-password-file", "/missing"], &["--registry-password-file", "/missing"]),
        (&door, &["--tls-client-ca", &ca], &["--tls-client-ca", "--agent-tls-cert"]),
        (&agent, &["--listen", "0.0.0.0:0"], &["--listen", "--tls-cert", "--tls-client-ca", "--insecure"]),
        (&agent, &["--listen", "[::]:0"], &["--listen", "--insecure"]),
        (&agent, &["--admin-listen", "0.0.0.0:0"], &["--admin-listen", "--tls-cert"]),
        (&agent, &["--liveliness-listen", "0.0.0.0:0"], &["--liveliness-listen", "--insecure"]),
        (&agent, &["--tls-cert", &pem, "--tls-key", &key], &["--tls-client-ca"]),
        (&agent, &["--tls-client-ca", &ca], &["--tls-cert"]),
        (&secure_agent, &["--advertise", "http://127.0.0.1:1"], &["--advertise", "https://"]),
        (
            &agent,
            &["--tls-cert", &pem, "--tls-key", &key, "--tls-client-ca", &key],
            &["--tls-client-ca", &key],
        ),
        (&["dev", "--listen", "0.0.0.0:0"], &[], &["--listen", "--insecure"]),
    ];
    for (role, flags, named) in cases {
        let line = [*role, *flags].concat();
        let (code, said) = refused(scratch.path(), &line);
        assert_eq!(code, 2, "{line:?}: {said}");
        for word in *named {
            assert!(said.contains(word), "{line:?} does not name {word}: {said}");
        }
    }
}

#[tokio::test]
async fn insecure_lifts_it_and_is_warned_of() {
    let scratch = tempfile::tempdir().unwrap();
    let line = "frontdoor --registry embedded --listen 0.0.0.0:0 --admin-listen 0.0.0.0:0 --insecure";
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let mut role = Role::start("insecure", scratch.path(), &args);
    role.announcement().await;
    for flag in ["--listen", "--admin-listen"] {
        let told = |log: &str| log.lines().any(|l| l.contains("WARN") && l.contains(&format!("\"{flag}\"")));
        role.logs_so(flag, told).await;
    }
}

#[tokio::test]
async fn a_password_on_the_command_line_is_warned_of_and_not_repeated() {
    let scratch = tempfile::tempdir().unwrap();
    let line =
        "frontdoor --registry redis://:hunter2@127.0.0.1:1 --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0";
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let mut role = Role::start("password", scratch.path(), &args);
    role.announcement().await;
    let log = role.logs("--registry-password-file").await;
    assert!(!log.contains("hunter2"), "{log}");
}
