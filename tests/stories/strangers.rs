//! Thousands of strangers that say nothing, little, or go on and on, and the holder of a key beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hatchery_tests::crowd::{UPGRADE, allow_files, stranger};
use hatchery_tests::memory_limit::MemoryLimit;
use hatchery_tests::processes::memory;
use hatchery_tests::{AgentPlan, Farm, skipped};
use tokio::time::Instant;

/// What strangers say: nothing, a few words of a head, one on the live feed all of it, half of a body, and most of them all but the end of
/// a large head.
fn words(number: usize) -> String {
    match number % 8 {
        0 => String::new(),
        1 => "GET /v1/nodes HTTP/1.1\r\nx-slow: ".to_owned(),
        2 => UPGRADE.to_owned(),
        3 => {
            let head = "POST /spawn HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 60000";
            format!("{head}\r\n\r\n{{\"model\":\"{}", "x".repeat(30 * 1024))
        }
        _ => format!("GET /v1/nodes HTTP/1.1\r\nx-slow: {}", "x".repeat(60 * 1024)),
    }
}

#[tokio::test]
async fn sixteen_thousand_strangers_take_a_bounded_memory_and_every_call_of_a_key_is_served_within_a_second()
{
    const CROWD: usize = 16_384;
    const CALLS: usize = 1000;
    const MOST: u64 = 256 << 20;
    // A build without optimizations takes several times as long for each stranger, on the processors that the strangers run on, too.
    const AT_ONCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 4 } else { 1 });
    let _crowd = allow_files(18_000).await;
    // What follows from a limit of 256 MiB.
    let flags = ["--unauthenticated-memory", "96MiB"];
    let farm = Farm::builder().keys().plain_log().door_args(&flags).agent(AgentPlan::slots(4));
    let mut farm = farm.start().await;
    let limit = MemoryLimit::of(farm.doors[0].role.pid(), MOST);
    if let Err(why) = &limit {
        skipped("a real limit of memory", why);
    }
    let client = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let door = client.addr;
    let connect = |number| stranger(door, number, words(number));
    let held: Vec<_> = stream::iter(0..CROWD).map(connect).buffer_unordered(64).collect().await;
    // They go on, too: whoever is closed is there again.
    let over = Arc::new(AtomicBool::new(false));
    let came = Arc::new(AtomicUsize::new(CROWD));
    let floods: Vec<_> = (0..8)
        .map(|_| {
            let (over, came) = (Arc::clone(&over), Arc::clone(&came));
            tokio::spawn(async move {
                let mut last = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let number = came.fetch_add(1, Ordering::Relaxed);
                    last.extend(stranger(door, number, words(number)).await);
                    if last.len() > 50 {
                        last.clear();
                    }
                }
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    for _ in 0..CALLS {
        let asked = Instant::now();
        let answer = client.get("/v1/spawns").send().await;
        longest = longest.max(asked.elapsed());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(longest < AT_ONCE, "a call of a key took {longest:?}");
    over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.await.unwrap();
    }
    assert!(came.load(Ordering::Relaxed) > CROWD);
    eprintln!(
        "the longest of {CALLS} calls took {longest:?}; {:?} bytes on the account of the limit",
        limit.as_ref().map(MemoryLimit::peak)
    );
    let peak = memory(farm.doors[0].role.pid(), "VmHWM");
    assert!(peak < MOST, "{} MiB", peak >> 20);
    assert_eq!(farm.doors[0].role.exited(), None);
    drop(held);
    farm.finish().await;
    drop(limit);
}
