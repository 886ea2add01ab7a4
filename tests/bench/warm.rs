//! Spawns that get a warm server against spawns that start one, and against the floor, with servers that take 0, 300 and 1500 ms to start.
//!
//! Warm spawns are asked for while the pool lasts, one after another. All three are measured alternately, in one farm of two nodes, of which
//! one keeps servers.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use hatchery_tests::binaries::binaries;
use hatchery_tests::{AgentPlan, Farm, Look, until};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::floor::Floor;
use crate::table::{Sample, Table, ms};

/// As many as are kept, and asked for in one round.
const KEPT: u64 = 10;
/// Cold starts of one round.
const COLD: usize = 3;
/// How long a server takes to start, and how many rounds.
const DELAYS: [(u64, usize); 3] = [(0, 20), (300, 8), (1500, 4)];

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    for (delay, rounds) in DELAYS {
        let plan = |first: u16, pool: &str| {
            AgentPlan::slots(40)
                .port_range(first..=first + 199)
                .args(&["--pool", pool, "--on-shutdown", "kill"])
                .env("SC_SIM_READY_DELAY_MS", &delay.to_string())
        };
        let warm = plan(10_200, "warm").args(&["--warm", &format!("csr={KEPT}")]);
        let farm = Farm::builder().plain_log().agent(plan(10_000, "cold")).agent(warm).start().await;
        let ports = (10_400..10_600).collect();
        let floor = Floor::start(&binaries().simulator, &farm.mark().join("license"), ports).await?;
        let floor = floor.with_delay(delay);
        rows(&farm, &floor, (delay, rounds), table).await?;
        farm.shut_down().await;
    }
    Ok(())
}

async fn rows(
    farm: &Farm,
    floor: &Floor,
    (delay, rounds): (u64, usize),
    table: &mut Table,
) -> anyhow::Result<()> {
    let [mut bare, mut cold, mut warm] = [(); 3].map(|()| Sample::default());
    for round in 0..=rounds {
        full(farm).await;
        let mut ids = Vec::new();
        for _ in 0..KEPT {
            let (answer, took) = spawn(farm, "warm").await?;
            let record = farm.record(id(&answer)?).await;
            ensure!(record["warm"] == true, "it started a server: {record}");
            ids.push(id(&answer)?.to_owned());
            if round > 0 {
                warm.add(took);
            }
        }
        for _ in 0..COLD {
            let (running, took) = floor.spawn(Instant::now()).await?;
            running.stop().await?;
            let (answer, whole) = spawn(farm, "cold").await?;
            ids.push(id(&answer)?.to_owned());
            if round > 0 {
                bare.add(took);
                cold.add(whole);
            }
        }
        farm.stop(ids.iter().map(String::as_str)).await;
        for id in &ids {
            farm.ends(id).await;
        }
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let [floor, cold, warm] = [&bare, &cold, &warm].map(|sample| ms(sample.quantile(share)));
        table.row(
            format!("request to ready, servers that take {delay} ms, warm, {name}"),
            warm,
            format!("cold {cold}"),
            format!("floor {floor}"),
        );
    }
    Ok(())
}

/// Waits until the pool is full.
async fn full(farm: &Farm) {
    until("the pool is full", Duration::from_secs(60), async || {
        let node = farm.door(0).json("/v1/nodes/node-b").await;
        Look::when(node["warm"]["csr"]["ready"] == KEPT, || node.to_string())
    })
    .await;
}

async fn spawn(farm: &Farm, pool: &str) -> anyhow::Result<(Value, Duration)> {
    let began = Instant::now();
    let response = farm.door(0).post("/spawn").json(&json!({"pool": pool})).send().await;
    let took = began.elapsed();
    ensure!(response.status == 200, "POST /spawn was answered with {response:?}");
    Ok((response.json(), took))
}

fn id(answer: &Value) -> anyhow::Result<&str> {
    answer["id"].as_str().context("an id")
}
