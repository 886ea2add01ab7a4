//! Placements: HTTP, Redis, gRPC and back, with agents that start nothing; and what the agent itself keeps per spawn.

use std::time::Duration;

use anyhow::Context as _;
use hatchery_tests::{AgentPlan, Farm};

use crate::table::Table;

const AT_ONCE: usize = 64;
const FOR: &str = "8s";
/// Spawns that run while memory is looked at.
const RUNNING: usize = 400;

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let nothing = |first| AgentPlan::slots(1000).port_range(first..=first + 1999).args(&["--start-nothing"]);
    let farm = Farm::builder().plain_log().agent(nothing(10_000)).agent(nothing(12_000)).start().await;
    let args = ["bench", "--json", "--concurrency", &AT_ONCE.to_string(), "--duration", FOR];
    let result = farm.run(&args).await.json();
    let rate = result["spawn"]["perSecond"].as_f64().with_context(|| format!("a rate in {result}"))?;
    table.row(
        format!("placements per second, {AT_ONCE} at once, each stopped again"),
        format!("{rate:.0}"),
        "aim 8000 without the stops",
        "load generator and Redis included",
    );
    farm.shut_down().await;
    Ok(())
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
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
    let before = resident(agent)?;
    for _ in 0..RUNNING {
        ids.push(door.spawned(&serde_json::json!({})).await["id"].as_str().unwrap_or_default().to_owned());
    }
    // Two heartbeats with everything in them.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let after = resident(agent)?;
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
