//! An agent as process 1 of a container without an init: what its spawns leave behind is its own to reap and to end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hatchery_tests::binaries::binaries;
use hatchery_tests::{AgentPlan, Farm, Look, Viewer, processes, skipped, until, wait::TIMEOUT};
use serde_json::json;

/// Makes a program process 1 of a namespace, with a `/proc` of its own.
const CONTAINER: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// A server that leaves orphans: some that end at once, and one in a session of its own that stays.
fn untidy(directory: &Path) -> PathBuf {
    let file = directory.join("untidy");
    let text = format!(
        "#!/bin/sh\n\
         for n in 1 2 3; do (setsid sh -c 'exit 3' &); done\n\
         (setsid sleep 600 &)\n\
         (sh -c 'sleep 0.3' &)\n\
         exec '{}' \"$@\"\n",
        binaries().simulator.display()
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

async fn nothing_to_reap(farm: &Farm) {
    until("no zombie is left", TIMEOUT, async || {
        let zombies = processes::zombies_of(farm.agents[0].role.pid());
        Look::when(zombies.is_empty(), || format!("{zombies:?}"))
    })
    .await;
}

#[tokio::test]
async fn an_agent_as_process_one_leaves_no_zombie_and_knows_how_its_servers_ended() {
    let (program, args) = CONTAINER.split_first().unwrap();
    let made = Command::new(program).args(args).arg("true").stdin(Stdio::null()).output();
    if !made.is_ok_and(|ran| ran.status.success()) {
        return skipped("an agent as process one", "this user may not make a process namespace");
    }
    let directory = tempfile::tempdir().unwrap();
    let plan = AgentPlan::slots(12).executable(untidy(directory.path())).under(&CONTAINER);
    let farm = Farm::builder().agent(plan.args(&["--stop-grace", "1s"])).start().await;
    let status = fs::read_to_string(format!("/proc/{}/status", farm.agents[0].role.pid())).unwrap();
    let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(inside.split_whitespace().last(), Some("1"), "it is process 1");

    let mut running = Vec::new();
    for _ in 0..10 {
        running.push(farm.watched().await);
    }
    nothing_to_reap(&farm).await;
    // Servers that end by themselves, while others end theirs.
    for code in [3, 6] {
        let body = json!({"sessionToken": format!("sim:exit_before_ready={code}")});
        let problem = farm.door(0).spawn(&body).await.problem(502, "spawn-failed");
        assert_eq!(problem.json["exitCode"], code, "{}", problem.json);
    }
    let id = farm.door(0).spawned(&json!({"sessionToken": "sim:crash_after_ms=300,crash_signal=SEGV"})).await
        ["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let exit = farm.ends(&id).await;
    assert_eq!((&exit["reason"], &exit["signal"]), (&json!("signaled"), &json!("SIGSEGV")), "{exit}");
    for (index, (id, viewer)) in running.into_iter().enumerate() {
        if index % 2 == 0 {
            viewer.leave().await;
            let exit = farm.ends(&id).await;
            assert_eq!((&exit["reason"], &exit["code"]), (&json!("disconnected"), &json!(0)), "{exit}");
        } else {
            farm.stop([id.as_str()]).await;
            assert_eq!(farm.ends(&id).await["reason"], "stopped");
            drop::<Viewer>(viewer);
        }
    }
    until("nothing of them is left", TIMEOUT, async || {
        let left = farm.processes();
        Look::when(left.is_empty(), || format!("{left:?}"))
    })
    .await;
    nothing_to_reap(&farm).await;
    farm.finish().await;
}
