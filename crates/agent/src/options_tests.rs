//! Tests of the agent's command line.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn parse(args: &[&str]) -> Result<Options, clap::Error> {
    Cli::try_parse_from(["agent"].iter().chain(args)).map(|cli| cli.options)
}

fn config(args: &[&str]) -> Result<Config, ConfigError> {
    let all = [&["--executable", "/opt/sc/ts3d_sc_server", "--node", "n"], args].concat();
    parse(&all).unwrap().into_config()
}

#[test]
fn the_flags_default_to_what_the_documentation_says() {
    let given = config(&[]).unwrap();
    assert!(given.hosts.knows(&host_name()) && given.hosts.knows("n"));
    let mut plain = Config::new(
        "n".parse().unwrap(),
        Launcher::Executable("/opt/sc/ts3d_sc_server".into()),
        given.state_dir.clone(),
    );
    // The machine's name is in no documentation.
    plain.hosts = given.hosts.clone();
    assert_eq!(format!("{given:?}"), format!("{plain:?}"));
}

#[test]
fn lists_come_as_repeated_flags_or_with_commas() {
    let config = config(&[
        "--label",
        "a=1,b=2",
        "--label",
        "c=3",
        "--env",
        "X=1",
        "--env",
        "Y=2=3",
        "--arg",
        "--foo=1,2",
        "--arg",
        "-x",
        "--model-dir",
        "/m,/n",
    ])
    .unwrap();
    assert_eq!(config.labels.len(), 3);
    assert_eq!(config.env, [("X".into(), "1".into()), ("Y".into(), "2=3".into())]);
    assert_eq!(config.args, ["--foo=1,2", "-x"]);
    assert_eq!(config.model_dirs, [PathBuf::from("/m"), "/n".into()]);
}

#[test]
fn relative_paths_are_made_absolute_at_the_start() {
    let config = config(&["--license-file", "key.txt", "--model-dir", "models", "--state-dir", "s"]).unwrap();
    assert!(config.license_file.unwrap().is_absolute());
    assert!(config.model_dirs[0].is_absolute() && config.state_dir.is_absolute());
}

#[test]
fn a_wrong_value_names_its_flag() {
    for (args, flag) in [
        (&["--endpoint", "ws://{host}"][..], "--endpoint"),
        (&["--endpoint", "ws://{hots}:{port}"], "--endpoint"),
        (&["--label", "a=1,a=2"], "--label"),
        (&["--label", "a"], "--label"),
        (&["--node", "a b"], "--node"),
        (&["--slots", "0"], "--slots"),
        (&["--ports", "55010-55000"], "--ports"),
        (&["--arg", "--id"], "--arg"),
        (&["--warm", "csr=1,csr=2"], "--warm"),
        (&["--warm", "csr=33"], "--warm"),
    ] {
        let all = [&["--executable", "/x"], args].concat();
        let error = parse(&all).unwrap().into_config().unwrap_err();
        assert_eq!(error.flag, flag, "{args:?}: {error}");
    }
    assert_eq!(parse(&["--node", "n"]).unwrap().into_config().unwrap_err().flag, "--executable");
    for args in [
        ["--ready-timeout", "30"],
        ["--ports", "55000"],
        ["--min-free-memory", "1 lot"],
        ["--csr", "perhaps"],
        ["--on-shutdown", "never"],
        ["--listen", "localhost"],
        ["--env", "X"],
        ["--warm", "csr"],
        ["--warm", "gpu=1"],
        ["--warm-age", "10"],
        ["--slots", "-1"],
        ["--gpus", "-1"],
    ] {
        let error = parse(&args).unwrap_err().to_string();
        assert!(error.contains(args[0]), "{args:?}: {error}");
    }
}

#[test]
fn a_benchmark_needs_no_executable() {
    let config = parse(&["--node", "n", "--start-nothing"]).unwrap().into_config().unwrap();
    assert_eq!(config.launcher, Launcher::Nothing);
}
