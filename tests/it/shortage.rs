//! An agent that gets no more processes, threads or memory: its starts go to other nodes, and what runs goes on.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};

use hatchery_tests::{AgentPlan, Farm, Look, Viewer, skipped, until, wait::TIMEOUT};
use serde_json::json;

use crate::sick_nodes::{farm, hardly_anybody_notices, it_is_well_again, one, still_live};

/// A user that is nobody else's. Limits on the number of processes do not count for root.
const USER: u32 = 1_910_061_001;

/// Has a limit of `node-c`'s agent be this, as `prlimit` writes it; its own user sets it.
fn limit(farm: &Farm, what: &str) {
    let agent = farm.agent("node-c");
    let pid = agent.role.pid().to_string();
    let words =
        [agent.program.under.as_slice(), &["prlimit", "--pid", &pid, what].map(str::to_owned)].concat();
    let status = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{words:?}");
}

/// Restarts the agent of `node-c` as a user of its own; `false`, and says so, where that cannot be.
async fn unprivileged(farm: &mut Farm) -> bool {
    let user = USER.to_string();
    let under = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_owned);
    let program = &hatchery_tests::binaries::binaries().hatchery;
    let runs = Command::new(&under[0]).args(&under[1..]).arg(program).arg("--version").output();
    if !runs.is_ok_and(|ran| ran.status.success()) {
        skipped("a shortage", "only root can run the program as another user, who must be able to read it");
        return false;
    }
    fs::set_permissions(farm.mark(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = farm.mark().join("unprivileged");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(USER), Some(USER)).unwrap();
    // What the registry's password is read from: the server lets this user in with any.
    let password = farm.mark().join("password");
    fs::write(&password, "any\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    let url = farm.redis.url().replace("redis://", "redis://default@");
    let agent = farm.agent_mut("node-c");
    agent.set("--state-dir", state.to_str().unwrap());
    agent.set("--registry", &url);
    agent.set("--registry-password-file", password.to_str().unwrap());
    agent.program.under = under.to_vec();
    agent.state_dir = state;
    agent.restart().await;
    is_up(farm).await;
    true
}

async fn is_up(farm: &Farm) {
    until("node-c is up", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-c").await;
        Look::when(node["availability"] == "up", || node.to_string())
    })
    .await;
}

/// One viewer on each node: its node, its spawn and itself.
async fn watching(farm: &Farm) -> Vec<(String, Viewer)> {
    let mut watching = Vec::new();
    for node in ["node-a", "node-b", "node-c"] {
        watching.push(farm.watched_on(node).await);
    }
    watching
}

#[tokio::test]
async fn a_node_without_processes_fails_hardly_any_caller() {
    let mut farm = farm(AgentPlan::slots(8)).await;
    if !unprivileged(&mut farm).await {
        return;
    }
    let mut watching = watching(&farm).await;
    // It has more than one thread, so it gets no further one, and no process.
    limit(&farm, "--nproc=1:");
    // Threads that have nothing to do may end, and come back no more.
    hatchery_tests::wait::longer_than(std::time::Duration::from_secs(11)).await;
    hardly_anybody_notices(&farm, "out of processes").await;
    let ids: Vec<String> = watching.iter().map(|(id, _)| id.clone()).collect();
    still_live(&farm, &ids).await;
    // Its connections are made again without a thread, and what runs there is looked after.
    farm.redis.says("CLIENT KILL TYPE normal").await.unwrap();
    hatchery_tests::wait::longer_than(std::time::Duration::from_secs(4)).await;
    is_up(&farm).await;
    let (id, mut viewer) = watching.pop().unwrap();
    viewer.still_watches().await;
    viewer.leave().await;
    assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    limit(&farm, "--nproc=2048:");
    it_is_well_again(&farm).await;
    let log = farm.agent("node-c").role.log();
    assert!(!log.contains("panicked"), "nothing panicked");
    for (id, viewer) in watching {
        viewer.leave().await;
        farm.ends(&id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_that_gets_no_threads_at_its_start_says_so() {
    let mut farm = farm(AgentPlan::slots(8)).await;
    if !unprivileged(&mut farm).await {
        return;
    }
    let agent = farm.agent_mut("node-c");
    // At first not even one, then none for the runtime.
    for threads in 1..=3 {
        let before = agent.role.log().len();
        agent.program.under.extend(["prlimit".to_owned(), format!("--nproc={threads}")]);
        agent.begin();
        let status = agent.role.end().await;
        let said = agent.role.log().split_off(before);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("out of threads") && !said.contains("panicked"), "{said}");
        agent.program.under.truncate(6);
    }
    // What they said is no log.
    fs::remove_file(farm.mark().join("node-c.log")).unwrap();
    let agent = farm.agent_mut("node-c");
    agent.restart().await;
    is_up(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_without_memory_refuses_or_dies_and_viewers_notice_neither() {
    let mut farm = farm(AgentPlan::slots(8)).await;
    let mut watching = watching(&farm).await;
    // Less than it has: whatever needs a page more fails from now on.
    limit(&farm, "--as=1000000:");
    let mut failed = Vec::new();
    for index in 0..24 {
        if let Err(answer) = one(&farm, index % 2).await {
            failed.push(answer);
        }
    }
    assert!(failed.len() <= 2, "{} of 24 spawns failed: {failed:#?}", failed.len());
    let agent = farm.agent_mut("node-c");
    match agent.role.exited() {
        None => {
            let log = agent.role.logs("out of memory").await;
            assert!(!log.contains("panicked"), "nothing panicked");
        }
        // An allocation that failed: there is nothing an agent could do about it.
        Some(status) => {
            let aborted = std::os::unix::process::ExitStatusExt::signal(&status);
            assert_eq!(aborted, Some(6), "{status}");
            // Its last words are no log.
            fs::remove_file(farm.mark().join("node-c.log")).unwrap();
        }
    }
    for (_, viewer) in &mut watching {
        viewer.still_watches().await;
    }
    farm.agent_mut("node-c").restart().await;
    is_up(&farm).await;
    for (id, viewer) in &mut watching {
        farm.reaches(id, "ready", TIMEOUT).await;
        viewer.still_watches().await;
    }
    it_is_well_again(&farm).await;
    for (id, viewer) in watching {
        viewer.leave().await;
        assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    }
    assert_eq!(farm.door(0).json("/v1/nodes/node-c").await["health"], json!({"state": "ok"}));
    farm.finish().await;
}
