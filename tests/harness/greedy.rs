//! A key at all of its limits, and a crowd that asks for as much and costs the farm nothing: what one caller does to the others is the
//! difference between the two, since whoever asks runs on the same processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::farm::Farm;
use crate::live::Subscriber;
use crate::plan::AgentPlan;
use crate::wait::{Look, TIMEOUT, until};

/// Requests of the greedy key that ask for a place in line, and how many of them one caller may have there by default.
const IN_LINE: usize = 600;
const PLACES_IN_LINE: usize = 500;
/// Requests with one `Idempotency-Key` that wait for one answer.
const WITH_ONE_KEY: usize = 300;
/// Callers without a pause, for each thing that is asked for.
const WORKERS: usize = 2;
/// Between a refusal and the next try, until all places in line are taken.
const AGAIN: Duration = Duration::from_millis(200);
/// Live connections of the greedy key, as many as [`farm`] lets one caller have.
const LIVE: usize = 50;
/// Calls of one caller at once in such a farm: what waits in line, what waits for one answer, and a few more.
const CALLS: usize = PLACES_IN_LINE + WITH_ONE_KEY + 6;

/// Calls a second of one caller: the default, which is meant for what a call costs in an optimized build. Without optimizations a call takes
/// about five times as long, and a key that may make as many of them has a processor for itself.
fn calls_per_second() -> u32 {
    if cfg!(debug_assertions) { 100 } else { 500 }
}

/// A farm with room for the spawns of a modest caller, one node that is full for the greedy one to wait for (pool `small`), and limits that
/// the greedy one reaches. The spawn that fills the node, too.
pub async fn farm() -> (Farm, String) {
    let (live, calls) = (LIVE.to_string(), CALLS.to_string());
    let rate = calls_per_second().to_string();
    let limits =
        ["--max-live-per-caller", &live, "--max-calls-per-caller", &calls, "--max-calls-per-second", &rate];
    let small = AgentPlan::slots(1).args(&["--pool", "small", "--initial-use", "30m"]);
    let large = AgentPlan::slots(40).ports(48);
    let farm = Farm::builder().keys().plain_log().door_args(&limits).agent(large).agent(small).start().await;
    let held = farm.door(0).spawned(&json!({"pool": "small"})).await;
    let held = held["id"].as_str().expect("the contract has it").to_owned();
    (farm, held)
}

/// A greedy caller at work: what waits, what listens, and what asks without a pause. It ends with [`Work::stop`].
#[derive(Debug)]
pub struct Work(Vec<JoinHandle<()>>);

impl Work {
    /// As many callers without a pause, who ask the registry for nothing.
    pub async fn crowd(farm: &Farm) -> Self {
        let client = farm.door(0).showing_nothing();
        let answered = Arc::new(AtomicUsize::new(0));
        let worker = |_| {
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                loop {
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
        Self(asking)
    }

    /// A key that takes all that its limits leave it.
    pub async fn start(farm: &Farm, key: &str) -> Self {
        let client = farm.door(0).showing(key);
        let wait = json!({"pool": "small", "waitSeconds": 60});
        let mut tasks = Vec::new();
        let full = Arc::new(AtomicBool::new(false));
        // First, while its calls a second are not used up.
        for number in 0..LIVE {
            let mut subscriber = Subscriber::connect_as(client.addr, key).await;
            tasks.push(tokio::spawn(async move {
                subscriber.subscribe("nodes").await;
                loop {
                    // Most of them listen, a few ask again and again.
                    if number < WORKERS {
                        subscriber.subscribe("nodes").await;
                    } else {
                        subscriber.anything().await;
                    }
                }
            }));
        }
        for number in 0..IN_LINE + WITH_ONE_KEY {
            let request = client.post("/spawn").json(&wait);
            let request =
                if number < IN_LINE { request } else { request.header("idempotency-key", "of-many") };
            let full = Arc::clone(&full);
            tasks.push(tokio::spawn(async move {
                // What it has called before counts against its calls a second, so some are refused for that at first.
                while request.clone().try_send().await.is_ok_and(|answer| answer.status == 429) {
                    if full.load(Ordering::Relaxed) {
                        return;
                    }
                    sleep(AGAIN).await;
                }
            }));
        }
        farm.waiting(PLACES_IN_LINE).await;
        full.store(true, Ordering::Relaxed);
        // It may start as many spawns as it likes, and asks for what no node offers: what it was given would fill the nodes.
        let nowhere = json!({"pool": "nowhere"});
        for (method, path) in [("GET", "/v1/nodes"), ("GET", "/v1/spawns"), ("POST", "/spawn")] {
            for _ in 0..WORKERS {
                let nowhere = nowhere.clone();
                tasks.push(tokio::spawn(async move {
                    loop {
                        let request = client.request(method, path);
                        let request = if method == "POST" { request.json(&nowhere) } else { request };
                        drop(request.try_send().await);
                    }
                }));
            }
        }
        Self(tasks)
    }

    /// Ends when those that waited have left the line, too.
    pub async fn stop(self, farm: &Farm) {
        for task in self.0 {
            task.abort();
            // Cut off, or ended by a limit before.
            task.await.ok();
        }
        farm.waiting(0).await;
    }
}
