//! What a spawn leaves outside its process group: a child that daemonized or made a session of its own.

use std::path::Path;

use agent::OnShutdown;
use model::ExitReason;

use crate::harness::{Farm, STAY, runs, until, until_gone};

/// A server that starts a process in a session of its own, whose number it writes to a file; `how` starts it.
fn leaves_behind(how: &str, file: &Path) -> String {
    format!("{how} bash -c 'echo $$ > {}; sleep 600' & {STAY}", file.display())
}

async fn pid_in(file: &Path) -> u32 {
    until("the number is written", async || std::fs::read_to_string(file).ok()?.trim().parse().ok()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_with_a_session_of_its_own_ends_with_its_spawn() {
    let farm = Farm::start().await;
    let files = ["a", "b"].map(|name| farm.dir.path().join(name));
    let (stopped, _) = farm.spawn_as(&leaves_behind("setsid", &files[0])).await;
    let (stays, _) = farm.spawn_as(&leaves_behind("setsid -f", &files[1])).await;
    let left = [pid_in(&files[0]).await, pid_in(&files[1]).await];
    assert!(left.iter().all(|pid| runs(*pid)));
    farm.stop(stopped).await;
    farm.until_ended(stopped, ExitReason::Stopped).await;
    until_gone(left[0]).await;
    assert!(runs(left[1]) && farm.info(stays).await.state == "ready", "another spawn's");
    farm.shutdown(OnShutdown::Kill).await;
    until_gone(left[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_spawn_left_behind_while_no_agent_looked_is_ended_by_the_next_agent() {
    let farm = Farm::start().await;
    let file = farm.dir.path().join("pid");
    let (id, _) = farm.spawn_as(&leaves_behind("setsid -f", &file)).await;
    let (left, server) = (pid_in(&file).await, farm.info(id).await.pid);
    let registry = farm.registry.clone();
    let dir = farm.shutdown(OnShutdown::Adopt).await;
    let group = rustix::process::Pid::from_raw(server.cast_signed()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    until_gone(server).await;
    assert!(runs(left));
    let agent = agent::Agent::start(crate::harness::config(&dir), registry).await.unwrap();
    until_gone(left).await;
    agent.shutdown(OnShutdown::Kill, tokio_util::sync::CancellationToken::new()).await;
}
