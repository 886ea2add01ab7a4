//! An agent that is started again while a share hangs, on which a file lies that its spawns need: what runs must not wait for the share.

use std::fs;
use std::time::Duration;

use hatchery_tests::{AgentPlan, Look, Share, until};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::sick_nodes::{farm, it_is_well_again, one, one_on_each, still_live};

/// A node without heartbeats is down after this time.
const DOWN: Duration = Duration::from_secs(10);
/// An agent that has started shows in the registry within this time.
const SEEN: Duration = Duration::from_secs(5);

/// The agent of `node-c` is started again while a share hangs, on which these flags name files. What it had goes on, its node is up, and
/// other nodes serve.
async fn an_agent_starts_beside_a_hung_share(flags: &[(&str, &str)]) {
    let directory = TempDir::new().unwrap();
    let (behind, mount) = (directory.path().join("behind"), directory.path().join("share"));
    let Some(share) = Share::of(&behind, &mount).await else { return };
    fs::copy(&hatchery_tests::binaries::binaries().simulator, behind.join("server")).unwrap();
    fs::write(behind.join("licence"), "a licence").unwrap();
    fs::create_dir(behind.join("models")).unwrap();
    let mut farm = farm(AgentPlan::slots(8)).await;
    let agent = farm.agent_mut("node-c");
    for (flag, name) in flags {
        agent.set(flag, mount.join(name).to_str().unwrap());
    }
    agent.restart().await;
    let living = one_on_each(&farm).await;
    let servers = farm.processes().len();
    share.hangs();
    let began = Instant::now();
    farm.agent_mut("node-c").restart().await;
    assert!(began.elapsed() < DOWN, "its node was down for a while: {:?}", began.elapsed());
    farm.agent("node-c").role.logs_so("the file that it cannot see", |log| log.contains(flags[0].0)).await;
    until("node-c is up with its spawn", SEEN, async || {
        let node = farm.door(0).json("/v1/nodes/node-c").await;
        let is_so = node["availability"] == "up" && node["slots"]["used"] == 1;
        Look::when(is_so, || node.to_string())
    })
    .await;
    still_live(&farm, &living).await;
    assert_eq!(farm.processes().len(), servers, "its server goes on");
    one(&farm, 0).await.unwrap();
    share.answers();
    it_is_well_again(&farm).await;
    farm.stop(living.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_that_is_started_again_while_the_share_of_its_executable_hangs_adopts_what_runs() {
    an_agent_starts_beside_a_hung_share(&[("--executable", "server")]).await;
}

#[tokio::test]
async fn an_agent_that_is_started_again_while_the_share_of_licence_and_models_hangs_adopts_what_runs() {
    an_agent_starts_beside_a_hung_share(&[("--license-file", "licence"), ("--model-dir", "models")]).await;
}
