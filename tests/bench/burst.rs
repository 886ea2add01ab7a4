//! A burst of requests as a class makes it when it begins, on eight nodes: without a pool of warm servers, with one that is smaller than the burst,
//! and through spawners that people write for themselves ([`crate::spawners`]), alternately in one run.
//!
//! Requests come by an absolute schedule, so that a late answer delays no other request, and times count from when each was due. Each has a key,
//! as those of browsers have. After the burst each server is connected to: what is answered lives.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use hatchery_tests::{AgentPlan, Farm, Look, Viewer, until};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::keep_alive::KeepAlive;
use crate::spawners::Spawner;
use crate::table::{Sample, Table, ms};

/// Requests of a burst, and the time between two of them.
const BURST: u32 = 100;
const APART: Duration = Duration::from_millis(10);
/// What the nodes keep: 20 in all.
const KEPT: [u32; 8] = [3, 3, 3, 3, 2, 2, 2, 2];
/// How long a server takes to start, and how many bursts of each kind.
const DELAYS: [(u64, usize); 3] = [(0, 4), (300, 3), (1500, 2)];
/// The first port of nodes, and how many each has.
const PORTS: (u16, u16) = (10_000, 40);

/// What a burst took, in the order of the requests.
type Times = Vec<(Duration, bool)>;

/// With servers of these delays, or of all.
pub(crate) async fn measure(delays: &[&str], table: &mut Table) -> anyhow::Result<()> {
    let is_wanted = |delay: u64| delays.is_empty() || delays.contains(&delay.to_string().as_str());
    for (delay, rounds) in DELAYS.into_iter().filter(|(delay, _)| is_wanted(*delay)) {
        let farm = farm(delay).await;
        let others = Spawner::all(&farm, delay).await?;
        let http = KeepAlive::new(farm.doors[0].http.addr);
        let (mut cold, mut beside, mut warm) = (Sample::default(), Sample::default(), Sample::default());
        let mut theirs = vec![Sample::default(); others.len()];
        for round in 0..=rounds {
            let without = burst(&farm, &http, ("cold", round)).await?;
            is_idle(&farm).await;
            let with = burst(&farm, &http, ("warm", round)).await?;
            is_idle(&farm).await;
            let mut all = Vec::new();
            for other in &others {
                all.push(of_spawner(other).await?);
            }
            // The first one pays for connections and caches.
            if round == 0 {
                continue;
            }
            without.into_iter().for_each(|(took, _)| cold.add(took));
            for (took, is_warm) in with {
                if is_warm { warm.add(took) } else { beside.add(took) }
            }
            for (sample, times) in theirs.iter_mut().zip(all) {
                times.into_iter().for_each(|took| sample.add(took));
            }
        }
        rows(table, delay, [&cold, &beside, &warm]);
        for (other, sample) in others.iter().zip(&theirs) {
            for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
                let [cold, theirs] = [&cold, sample].map(|sample| ms(sample.quantile(share)));
                table.row(
                    format!(
                        "{BURST} within a second, servers that take {delay} ms, {}, {name}",
                        other.name()
                    ),
                    theirs,
                    format!("Hatchery without a pool {cold}"),
                    "",
                );
            }
        }
        farm.shut_down().await;
    }
    Ok(())
}

/// Eight nodes that keep servers and eight that keep none, in two pools.
async fn farm(delay: u64) -> Farm {
    let plan = |number: usize, pool: &str| {
        let first = PORTS.0 + u16::try_from(number).expect("a few nodes") * PORTS.1;
        AgentPlan::slots(16)
            .port_range(first..=first + PORTS.1 - 1)
            .args(&["--pool", pool, "--starts", "4", "--on-shutdown", "kill"])
            .env("SC_SIM_READY_DELAY_MS", &delay.to_string())
    };
    let mut builder = Farm::builder().plain_log();
    for (number, kept) in KEPT.into_iter().enumerate() {
        builder = builder.agent(plan(2 * number, "cold"));
        builder = builder.agent(plan(2 * number + 1, "warm").args(&["--warm", &format!("csr={kept}")]));
    }
    builder.start().await
}

fn rows(table: &mut Table, delay: u64, [cold, beside, warm]: [&Sample; 3]) {
    let what = format!("{BURST} within a second, servers that take {delay} ms");
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let [without, with, kept] = [cold, beside, warm].map(|sample| sample.quantile(share));
        table.row(
            format!("{what}, cold ones beside a pool of 20, {name}"),
            ms(with),
            format!("without a pool {}", ms(without)),
            format!("{:.2} ×", with.as_secs_f64() / without.as_secs_f64()),
        );
        table.row(
            format!("{what}, warm ones ({} of {}), {name}", warm.len(), warm.len() + beside.len()),
            ms(kept),
            format!("without a pool {}", ms(without)),
            "",
        );
    }
}

/// One burst on a pool of nodes: how long each took, and whether it got a warm server.
async fn burst(farm: &Farm, http: &KeepAlive, (pool, round): (&str, usize)) -> anyhow::Result<Times> {
    let body = json!({"pool": pool}).to_string();
    let begin = Instant::now() + APART;
    let answers = try_join_all((0..BURST).map(|number| {
        let (body, due) = (body.as_str(), begin + APART * number);
        async move {
            sleep_until(due).await;
            let key = format!("{pool}-{round}-{number}-{}", std::process::id());
            let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
            let (status, answer) = http.send("POST", "/spawn", &headers, body).await?;
            let took = due.elapsed();
            ensure!(status == 200, "POST /spawn was answered with {status}: {answer}");
            Ok((answer, took))
        }
    }))
    .await?;
    let mut times = Vec::new();
    for (answer, took) in &answers {
        let record = farm.record(text(answer, "id")?).await;
        lives(text(answer, "endpoint")?).await?;
        times.push((*took, record["warm"] == true));
    }
    Ok(times)
}

/// One burst through another spawner.
async fn of_spawner(spawner: &Spawner) -> anyhow::Result<Vec<Duration>> {
    let begin = Instant::now() + APART;
    let answers = try_join_all((0..BURST).map(|number| {
        let due = begin + APART * number;
        async move {
            sleep_until(due).await;
            let endpoint = spawner.spawn().await?;
            anyhow::Ok((endpoint, due.elapsed()))
        }
    }))
    .await?;
    for (endpoint, _) in &answers {
        lives(endpoint).await?;
    }
    spawner.is_idle().await;
    Ok(answers.into_iter().map(|(_, took)| took).collect())
}

/// A viewer connects to what was answered, is served, and leaves, which ends it.
async fn lives(endpoint: &str) -> anyhow::Result<()> {
    let mut viewer = Viewer::connect(endpoint, None).await?;
    viewer.still_watches().await;
    viewer.leave().await;
    Ok(())
}

/// Waits until no spawn is left and the pool is full again.
async fn is_idle(farm: &Farm) {
    until("no spawn is left, and the pool is full", Duration::from_secs(60), async || {
        let nodes = farm.door(0).json("/v1/nodes").await;
        let all = nodes["nodes"].as_array().cloned().unwrap_or_default();
        let is_so = |node: &Value| {
            let warm = &node["warm"]["csr"];
            node["slots"]["used"] == 0 && warm["ready"] == warm["wanted"]
        };
        Look::when(all.iter().all(is_so), || nodes.to_string())
    })
    .await;
}

fn text<'a>(answer: &'a Value, member: &str) -> anyhow::Result<&'a str> {
    answer[member].as_str().with_context(|| format!("{member} in {answer}"))
}
