//! What the command line accepts, refuses and says about it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Output;

use crate::process::{program, sim};
use crate::receiver::{Manner, Receiver};

/// For command lines that end at once.
fn output(args: &[&str]) -> Output {
    program().args(args).output().expect("the simulator runs")
}

fn refuses(args: &[&str], code: i32, message: &str) {
    let output = output(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(stderr.trim_end(), message, "{args:?}");
}

#[test]
fn a_bad_command_line_exits_with_2_and_names_the_option() {
    let start = ["--id", "a", "--sc-port", "1", "--license", "k"];
    let table: &[(&[&str], &str)] = &[
        (&["--nonsense"], "unrecognised option '--nonsense'"),
        (&["--id", "b"], "option '--id' cannot be specified more than once"),
        (&["--csr", "maybe"], "the argument ('maybe') for option '--csr' is invalid"),
        (&["--ssr"], "the required argument for option '--ssr' is missing"),
        (&["--ssr", "--ssr-egl"], "the required argument for option '--ssr' is missing"),
        (&["--ssr-g", "x"], "the argument ('x') for option '--ssr-gpu-index' is invalid"),
        (
            &["--mo", "x"],
            "option '--mo' is ambiguous and matches '--model-search-directories', '--model-file'",
        ),
        (&["--csr", "false"], "No rendering location specified. Set either '--ssr' or '--csr' to true"),
        (&["--license-file", "/x"], "You must specify only a license or a license-file, not both"),
        (
            &["--model-search-directories", "/models;/mo*"],
            "the argument ('/models;/mo*') for option '--model-search-directories' is invalid: '*' is not allowed",
        ),
        (
            &["--workspace-dir", "/no/such/directory"],
            "the argument ('/no/such/directory') for option '--workspace-dir' is invalid: it does not exist",
        ),
        (
            &["--workspace-dir", "/dev/null"],
            "the argument ('/dev/null') for option '--workspace-dir' is invalid: it is not a directory",
        ),
        (
            &["--liveliness-update-frequency", "0"],
            "the argument ('0') for option '--liveliness-update-frequency' is invalid",
        ),
        (
            &["--log-file", "/no/such/directory/log"],
            "unable to open the log-file: No such file or directory (os error 2)",
        ),
        (
            &["--session-token", "sim:typo=1"],
            "'typo' of the session token: '1' is not for a switch the simulator knows (see --help)",
        ),
    ];
    for (more, message) in table {
        refuses(&[&start[..], more].concat(), 2, message);
    }
}

#[test]
fn what_is_required_is_asked_for() {
    let table: &[(&[&str], &str)] = &[
        (&[], "the option '--id' is required but missing"),
        (&["--id", "a"], "the option '--sc-port' is required but missing"),
        (&["--id", "a", "--sc-port", "1"], "You must specify either a license or a license-file"),
    ];
    for (args, message) in table {
        refuses(args, 2, message);
    }
}

#[test]
fn a_misspelled_environment_is_refused() {
    let output = program()
        .args(["--id", "a", "--sc-port", "1", "--license", "k"])
        .env("SC_SIM_NEVER_READY", "perhaps")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "environment variable SC_SIM_NEVER_READY: 'perhaps' is not a yes or no\n"
    );
}

#[test]
fn help_is_shown_whatever_else_is_missing() {
    for args in [&["--help"][..], &["-h"], &["--id", "a", "--help"]] {
        let output = output(args);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{args:?}");
        for expected in ["--sc-port PORT", "Simulator only", "ready_delay_ms"] {
            assert!(stdout.contains(expected), "{expected} in {stdout}");
        }
    }
}

#[test]
fn a_bad_license_exits_with_6_and_a_bad_license_file_with_7() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let invalid = file("invalid", " invalid\n");
    let empty = file("empty", " \n");
    let missing = directory.path().join("missing").display().to_string();
    let table = [
        (["--license", "invalid"], 6, "invalid license".to_owned()),
        (["--license", ""], 6, "invalid license".to_owned()),
        (["--license-file", &invalid], 6, "invalid license".to_owned()),
        (["--license-file", &missing], 7, format!("Unable to open license file '{missing}'")),
        (["--license-file", &empty], 7, format!("Unable to read license file from '{empty}'")),
        (["--license-file", "/"], 7, "Unable to read license file from '/'".to_owned()),
    ];
    for (license, code, message) in table {
        refuses(&[&["--id", "a", "--sc-port", "1"], &license[..]].concat(), code, &message);
    }
}

#[test]
fn a_license_file_will_do_instead_of_a_license() {
    let directory = tempfile::tempdir().unwrap();
    let license = directory.path().join("license");
    fs::write(&license, "a key\n").unwrap();
    let license = license.display().to_string();
    let busy = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = busy.local_addr().unwrap().port().to_string();
    // Only a server that is content with its licence finds out that its port is busy.
    let args = ["--id", "a", "--license-file", &license, "--sc-port", &port];
    refuses(&args, 4, "Can't create lws context.");
}

#[test]
fn wss_is_refused_rather_than_pretended() {
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("pem");
    fs::write(&pem, "x").unwrap();
    let pem = pem.display().to_string();
    let table: &[(&[&str], &str)] = &[
        (
            &["--ssl-certificate-file", "/no/file", "--ssl-private-key-file", &pem],
            "unable to open SSL certificate file",
        ),
        (
            &["--ssl-certificate-file", &pem, "--ssl-private-key-file", "/no/file"],
            "unable to open SSL key file",
        ),
        (&["--ssl-certificate-file", &pem], "unable to open SSL key file"),
        (
            &["--ssl-certificate-file", &pem, "--ssl-private-key-file", &pem],
            "the simulator cannot serve wss; leave --ssl-certificate-file and --ssl-private-key-file away",
        ),
    ];
    for (tls, message) in table {
        refuses(&[&["--id", "a", "--sc-port", "1", "--license", "k"], *tls].concat(), 4, message);
    }
}

#[test]
fn settings_are_logged_without_the_license_and_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let log_file = directory.path().join("log");
    let mut sim = sim()
        .option("--session-token", "the-token")
        .option("--log-file", &log_file.display().to_string())
        .option("--log-file-category-mask", "1")
        .option("--log-style-delta", "on")
        .option("--model-search-directories", "/a;/b")
        .option("--liveliness-endpoint", "https://127.0.0.1/")
        .run();
    sim.listens();
    let log = sim.stdout.all();
    assert!(log[0].starts_with("0.0") && log[0].ends_with(":info: settings.id: spawn-1"), "{log:?}");
    assert!(log.iter().any(|line| line.contains("settings.model-search-directories: /a;/b")));
    assert!(!log.iter().any(|line| line.contains("the-token") || line.contains("any")), "{log:?}");
    let filed = fs::read_to_string(&log_file).unwrap();
    assert_eq!(filed.lines().count(), 1, "only errors: {filed}");
    assert!(filed.contains(":error: the simulator does not do https"), "{filed}");
    assert!(sim.is_running());
}

#[test]
fn every_option_may_be_given_together() {
    let directory = tempfile::tempdir().unwrap();
    let sim = sim()
        .option("--csr", "true")
        .option("--ssr", "1")
        .option("--ssr-gpu-index", "0")
        .option("--ssr-egl", "yes")
        .option("--initial-use-duration", "0")
        .option("--model-file", "model.scs")
        .option("--workspace-dir", &directory.path().display().to_string())
        .option("--liveliness-update-frequency", "2.5")
        .option("--exit-on-load-finish", "off")
        .option("--sc-tick-timeout-ms", "10")
        .option("--sc-verbose-logging", "true")
        .option("--debug-log-file", "debug.log")
        .option("--service-respawn", "false")
        .option("--service-respawn-log-suffix", "_again")
        .run();
    sim.listens();
}

#[test]
fn a_closed_stdout_is_no_reason_to_stop() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url("/"))
        .option("--liveliness-update-frequency", "0.05")
        .run_unheard();
    receiver.gets("ping");
    assert!(sim.is_running());
}
