//! What one key at all of its limits does to the spawns of another one: measured alternately, with the greedy one at rest, at
//! work, and with as many callers who ask for nothing but `/healthz`. The last tells what the machine's processors being
//! busy costs by itself: whoever asks runs on the same ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Client, Farm, Look, Subscriber, until};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::table::{Sample, Table, ms};

/// Alternations, and spawns of each half of one.
const ROUNDS: usize = 6;
const SPAWNS: usize = 60;
/// Requests of the greedy key that ask for a place in line, and how many of them one caller may have there by default.
const IN_LINE: usize = 600;
const PLACES_IN_LINE: usize = 500;
/// Requests with one key that wait for one answer.
const WITH_ONE_KEY: usize = 300;
/// Callers without a pause, for each thing that is asked for.
const WORKERS: usize = 2;

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let farm = Farm::builder()
        .keys()
        .plain_log()
        .agent(AgentPlan::slots(60).port_range(10_000..=10_199))
        .agent(AgentPlan::slots(1).port_range(10_200..=10_203).args(&[
            "--pool",
            "small",
            "--initial-use",
            "30m",
        ]))
        .start()
        .await;
    let greedy = farm.key(&["--scope", "spawn,read", "--spawns-per-minute", "60"]).await;
    let modest = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let held = farm.door(0).spawned(&json!({"pool": "small"})).await;
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
    farm.stop([held["id"].as_str().context("an id")?]).await;
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

/// A greedy key at work: what waits, and what asks without a pause.
struct Work {
    over: Arc<AtomicBool>,
    waiting: Vec<JoinHandle<()>>,
    asking: Vec<JoinHandle<()>>,
}

impl Work {
    /// As many callers without a pause, who ask the registry for nothing.
    async fn crowd(farm: &Farm) -> Self {
        let (client, over) = (farm.door(0).showing_nothing(), Arc::new(AtomicBool::new(false)));
        let answered = Arc::new(AtomicUsize::new(0));
        let worker = |_| {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    drop(client.get("/healthz").try_send().await);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let asking = (0..4 * WORKERS).map(worker).collect();
        until("the crowd is answered", TIMEOUT, async || {
            let answered = answered.load(Ordering::Relaxed);
            Look::when(answered > 100 * WORKERS, || format!("{answered} times"))
        })
        .await;
        Self { over, waiting: Vec::new(), asking }
    }

    async fn start(farm: &Farm, key: &str) -> Self {
        let (client, over) = (farm.door(0).showing(key), Arc::new(AtomicBool::new(false)));
        let wait = json!({"pool": "small", "waitSeconds": 60});
        let mut waiting = Vec::new();
        for number in 0..IN_LINE + WITH_ONE_KEY {
            let request = client.post("/spawn").json(&wait);
            let request =
                if number < IN_LINE { request } else { request.header("idempotency-key", "of many") };
            waiting.push(tokio::spawn(async move { drop(request.try_send().await) }));
        }
        let mut asking = Vec::new();
        for (method, path) in [("GET", "/v1/nodes"), ("GET", "/v1/spawns"), ("POST", "/spawn")] {
            for _ in 0..WORKERS {
                let over = Arc::clone(&over);
                asking.push(tokio::spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        drop(client.request(method, path).try_send().await);
                    }
                }));
            }
        }
        for _ in 0..WORKERS {
            let mut subscriber = Subscriber::connect_as(client.addr, key).await;
            let over = Arc::clone(&over);
            asking.push(tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    subscriber.subscribe("nodes").await;
                }
            }));
        }
        farm.waiting(PLACES_IN_LINE).await;
        Self { over, waiting, asking }
    }

    /// Ends when those that waited have left the line, too.
    async fn stop(self, farm: &Farm) {
        self.over.store(true, Ordering::Relaxed);
        for asking in self.asking {
            asking.await.ok();
        }
        for waiting in &self.waiting {
            waiting.abort();
        }
        farm.waiting(0).await;
    }
}
