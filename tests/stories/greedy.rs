//! One key at all of its limits, and the spawns of another one beside it.

use std::time::Duration;

use hatchery_tests::Client;
use hatchery_tests::greedy::{Work, farm};
use serde_json::json;
use tokio::time::Instant;

/// Alternations, and spawns of each part of one.
const ROUNDS: usize = 5;
const SPAWNS: usize = 40;

async fn spawns(client: Client) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..SPAWNS {
        let began = Instant::now();
        let answer = client.spawned(&json!({})).await;
        times.push(began.elapsed());
        let id = answer["id"].as_str().expect("the contract has it");
        let stopped = client.delete(&format!("/v1/spawns/{id}")).send().await;
        assert!(matches!(stopped.status, 200 | 202), "{stopped:?}");
    }
    times
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Whoever asks runs on the same processors as the farm. So the spawns are compared with those beside as many callers who ask for nothing
/// but `/healthz`, measured alternately.
#[tokio::test]
async fn a_key_at_all_of_its_limits_makes_the_spawns_of_another_key_twice_as_slow_at_the_most() {
    let (farm, held) = farm().await;
    let greedy = farm.key(&["--scope", "spawn,read"]).await;
    let modest = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let (mut quiet, mut crowded, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        quiet.extend(spawns(modest).await);
        let crowd = Work::crowd(&farm).await;
        crowded.extend(spawns(modest).await);
        crowd.stop(&farm).await;
        let work = Work::start(&farm, &greedy).await;
        busy.extend(spawns(modest).await);
        work.stop(&farm).await;
    }
    let [quiet, crowded, busy] = [quiet, crowded, busy].map(median);
    eprintln!(
        "a spawn: {quiet:?} alone, {crowded:?} beside a crowd, {busy:?} beside a key at all of its limits"
    );
    assert!(busy <= crowded * 2, "{busy:?} beside a key at all of its limits, {crowded:?} beside a crowd");
    farm.stop([held.as_str()]).await;
    farm.shut_down().await;
}
