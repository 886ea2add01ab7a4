//! What one key at all of its limits does to the spawns of another one: measured alternately, with the greedy one at rest, at
//! work, and with as many callers who ask for nothing but `/healthz`. The last tells what the machine's processors being
//! busy costs by itself: whoever asks runs on the same ones.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use hatchery_tests::Client;
use hatchery_tests::greedy::{Work, farm};
use serde_json::json;
use tokio::time::Instant;

use crate::table::{Sample, Table, ms};

/// Alternations, and spawns of each half of one.
const ROUNDS: usize = 6;
const SPAWNS: usize = 60;

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let (farm, held) = farm().await;
    let greedy = farm.key(&["--scope", "spawn,read"]).await;
    let modest = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let (mut quiet, mut crowded, mut busy) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..ROUNDS {
        spawns(modest, &mut quiet).await?;
        let crowd = Work::crowd(&farm).await;
        spawns(modest, &mut crowded).await?;
        crowd.stop(&farm).await;
        let work = Work::start(&farm, &greedy).await;
        spawns(modest, &mut busy).await?;
        work.stop(&farm).await;
    }
    for (name, share) in [("p50", 0.5), ("p95", 0.95)] {
        let (alone, beside) = (quiet.quantile(share), busy.quantile(share));
        let machine = crowded.quantile(share);
        let times = |over: Duration| beside.as_secs_f64() / over.as_secs_f64();
        table.row(
            format!("a spawn beside a key at all of its limits, {name}"),
            ms(beside),
            format!("{} alone, {} beside as many who ask for /healthz", ms(alone), ms(machine)),
            format!("{:.2} × and {:.2} ×, aim 2 ×", times(alone), times(machine)),
        );
    }
    farm.stop([held.as_str()]).await;
    farm.shut_down().await;
    Ok(())
}

async fn spawns(client: Client, sample: &mut Sample) -> anyhow::Result<()> {
    for _ in 0..SPAWNS {
        let began = Instant::now();
        let answer = client.spawn(&json!({})).await;
        sample.add(began.elapsed());
        ensure!(answer.status == 200, "{answer:?}");
        let id = answer.json()["id"].as_str().context("an id")?.to_owned();
        let stopped = client.delete(&format!("/v1/spawns/{id}")).send().await;
        ensure!(matches!(stopped.status, 200 | 202), "{stopped:?}");
    }
    Ok(())
}
