//! Placements: HTTP, Redis, gRPC and back, with agents that start nothing; and what the agent itself keeps per spawn.

use anyhow::Context as _;
use hatchery_tests::{AgentPlan, Farm, Look, processes, until, wait::TIMEOUT};

use crate::table::Table;

const AT_ONCE: usize = 64;
const FOR: &str = "8s";
/// Spawns that run while memory is looked at.
const RUNNING: usize = 400;

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    // Each lasts a moment and ends by itself, so that nothing but placements is asked for.
    let nothing = |first| {
        let args = ["--start-nothing", "--initial-use", "200ms"];
        AgentPlan::slots(2000).port_range(first..=first + 3999).args(&args)
    };
    let farm = Farm::builder().plain_log().agent(nothing(10_000)).agent(nothing(14_000)).start().await;
    let load = ["bench", "--json", "--stop=false", "--concurrency", &AT_ONCE.to_string(), "--duration"];
    farm.run(&[&load[..], &["1s"]].concat()).await;
    let result = farm.run(&[&load[..], &[FOR]].concat()).await.json();
    let rate = result["readyPerSecond"].as_f64().with_context(|| format!("a rate in {result}"))?;
    let asked = result["asked"].as_u64().unwrap_or_default();
    anyhow::ensure!(result["ready"].as_u64() == Some(asked), "every placement succeeds: {result}");
    table.row(
        format!("placements per second, {AT_ONCE} at once"),
        format!("{rate:.0}"),
        "aim 8000",
        "load generator and Redis included",
    );
    farm.shut_down().await;
    Ok(())
}

/// Resident memory of a process in KiB.
pub(crate) fn resident(pid: u32) -> u64 {
    processes::memory(pid, "VmRSS") / 1024
}

/// Waits until a node's agent has reported so many times more.
async fn heartbeats(farm: &Farm, node: &str, more: usize) {
    let path = format!("/v1/nodes/{node}");
    let last = async || farm.door(0).json(&path).await["lastHeartbeatAt"].clone();
    for _ in 0..more {
        let before = last().await;
        until("another heartbeat", TIMEOUT, async || Look::when(last().await != before, String::new)).await;
    }
}

pub(crate) async fn memory(table: &mut Table) -> anyhow::Result<()> {
    let farm = Farm::builder()
        .plain_log()
        .agent(AgentPlan::slots(500).port_range(10_000..=10_599).args(&["--initial-use", "10m"]))
        .start()
        .await;
    let agent = farm.agent("node-a").role.pid();
    let door = farm.door(0);
    // The first ones pay for caches that do not grow with the number of spawns.
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(door.spawned(&serde_json::json!({})).await["id"].as_str().unwrap_or_default().to_owned());
    }
    let before = resident(agent);
    for _ in 0..RUNNING {
        ids.push(door.spawned(&serde_json::json!({})).await["id"].as_str().unwrap_or_default().to_owned());
    }
    // With everything in them.
    heartbeats(&farm, "node-a", 2).await;
    let after = resident(agent);
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let each = after.saturating_sub(before) as f64 / RUNNING as f64;
    table.row(
        "agent's own memory per running spawn",
        format!("{each:.1} KiB"),
        "aim 64 KiB",
        format!("{RUNNING} spawns, {after} KiB in all"),
    );
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.shut_down().await;
    Ok(())
}
