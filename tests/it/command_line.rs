//! What a spawned server is started with: arguments, environment, group.

use std::collections::BTreeSet;
use std::path::Path;

use hatchery_tests::guard::MARK;
use hatchery_tests::processes::Process;
use hatchery_tests::{AgentPlan, Farm};
use serde_json::{Value, json};
use std::collections::BTreeMap;

async fn spawned(farm: &Farm, body: &Value) -> (Value, Process) {
    let answer = farm.door(0).spawned(body).await;
    let process = farm.process(answer["id"].as_str().unwrap()).expect("it runs");
    (answer, process)
}

/// The options by name; every option comes once.
fn options(process: &Process) -> BTreeMap<&str, &str> {
    let mut options = BTreeMap::new();
    for pair in process.args[1..].chunks(2) {
        let [name, value] = pair else { panic!("an option without a value: {:?}", process.args) };
        assert!(
            options.insert(name.as_str(), value.as_str()).is_none(),
            "{name} comes twice: {:?}",
            process.args
        );
    }
    options
}

#[tokio::test]
async fn a_server_gets_the_vendors_arguments() {
    let farm = Farm::small(2).await;
    let (answer, process) = spawned(&farm, &json!({})).await;
    let agent = &farm.agents[0];
    let options = options(&process);
    let always: BTreeSet<&str> = [
        "--id",
        "--sc-port",
        "--liveliness-endpoint",
        "--liveliness-update-frequency",
        "--model-search-directories",
        "--initial-use-duration",
        "--csr",
        "--license-file",
    ]
    .into();
    let more: BTreeSet<&str> = options.keys().copied().filter(|name| !always.contains(name)).collect();
    assert!(more.iter().all(|name| name.starts_with("--log-")), "{more:?}");
    assert_eq!(options["--id"], answer["id"].as_str().unwrap());
    let port = answer["endpoint"].as_str().unwrap().rsplit(':').next().unwrap();
    assert_eq!(options["--sc-port"], port);
    assert!(agent.ports.contains(&port.parse().unwrap()));
    let reports_to = options["--liveliness-endpoint"];
    let secret = reports_to.strip_prefix(&format!("http://{}/", agent.liveliness.addr));
    let secret =
        secret.and_then(|path| path.strip_suffix("/liveliness")).unwrap_or_else(|| panic!("{reports_to}"));
    assert!(secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_hexdigit()), "{secret}");
    assert_eq!(options["--liveliness-update-frequency"].parse::<f64>(), Ok(5.0));
    assert_eq!(options["--initial-use-duration"], "60");
    assert_eq!(Path::new(options["--model-search-directories"]), farm.mark().join("models"));
    assert_eq!(options["--csr"], "true");
    // The licence goes by file and comes last.
    let license = farm.mark().join("license").display().to_string();
    assert_eq!(process.args[process.args.len() - 2..], ["--license-file".to_owned(), license]);
    assert_eq!(process.group, process.pid, "a group of its own");

    let (answer2, process) =
        spawned(&farm, &json!({"rendererType": "ssr", "model": "bolt.scs", "sessionToken": "t"})).await;
    let options = self::options(&process);
    assert!(!options.contains_key("--csr"), "exactly one renderer: {options:?}");
    assert_eq!((options["--ssr"], options["--session-token"]), ("true", "t"));
    assert!(options["--model-file"].ends_with("bolt.scs"), "{options:?}");
    assert!(!options.contains_key("--ssr-gpu-index") && !options.contains_key("--ssr-egl"), "{options:?}");
    farm.stop([answer["id"].as_str().unwrap(), answer2["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_gets_an_environment_of_its_own() {
    let plan = AgentPlan::slots(2).env("SC_SIM_READY_DELAY_MS", "1").env("EXTRA", "a=b c");
    let farm = Farm::builder().agent(plan).start().await;
    for renderer in ["csr", "ssr"] {
        let (answer, process) = spawned(&farm, &json!({"rendererType": renderer})).await;
        let directory = Path::new(&process.args[0]).parent().unwrap().display().to_string();
        let mut env = process.env.clone();
        assert_eq!(env.remove("LD_LIBRARY_PATH").as_deref(), Some(directory.as_str()));
        assert_eq!(env.remove("EXTRA").as_deref(), Some("a=b c"));
        assert_eq!(env.remove("SC_SIM_READY_DELAY_MS").as_deref(), Some("1"));
        assert!(env.remove("DISPLAY").is_some(), "without EGL there is a display: {:?}", process.env);
        env.remove("DYLD_LIBRARY_PATH");
        assert!(env.remove("HATCHERY_SPAWN").is_some(), "by which its processes are known");
        assert_eq!(env.remove("HATCHERY_NODE").as_deref(), Some("node-a"));
        env.remove(MARK);
        assert_eq!(env, BTreeMap::new(), "nothing of the agent's environment");
        farm.stop([answer["id"].as_str().unwrap()]).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn with_egl_there_is_no_display() {
    let plan = AgentPlan::slots(2).args(&["--egl", "--gpus", "1"]).env("LD_LIBRARY_PATH", "/opt/mine");
    let farm = Farm::builder().agent(plan).start().await;
    let (answer, process) = spawned(&farm, &json!({"rendererType": "ssr"})).await;
    let options = options(&process);
    assert_eq!((options["--ssr-egl"], options["--ssr-gpu-index"]), ("true", "0"));
    assert!(!process.env.contains_key("DISPLAY"), "{:?}", process.env);
    assert_eq!(process.env["LD_LIBRARY_PATH"], "/opt/mine", "what the operator says wins");
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn extra_arguments_are_handed_on() {
    let plan = AgentPlan::slots(2).args(&[
        "--arg",
        "--sc-verbose-logging",
        "--arg",
        "true",
        "--ping-interval",
        "250ms",
    ]);
    let plan = plan.args(&["--initial-use", "90s"]);
    let farm = Farm::builder().agent(plan).start().await;
    let (answer, process) = spawned(&farm, &json!({})).await;
    let options = options(&process);
    assert_eq!(options["--sc-verbose-logging"], "true");
    assert_eq!(options["--liveliness-update-frequency"].parse::<f64>(), Ok(0.25));
    assert_eq!(options["--initial-use-duration"], "90");
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_gets_the_limit_of_open_files_that_the_agent_was_started_with() {
    let soft = |pid: u32| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap()
    };
    let farm = Farm::builder().agent(AgentPlan::slots(2).under(&["prlimit", "--nofile=300:"])).start().await;
    let (answer, process) = spawned(&farm, &json!({})).await;
    assert_eq!(soft(process.pid), 300);
    assert!(soft(farm.agents[0].role.pid()) > 300, "the agent's own is raised");
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
