//! When spawns are asked for: a fixed number of lives at once (closed), or arrivals on a schedule (open), of which those beyond the
//! bound are counted as missed and not made up for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::life::Life;
use super::pace;

/// How the load is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// The next spawn is asked for when one is over.
    Closed {
        /// Lives at once.
        concurrency: u32,
    },
    /// Spawns are asked for on a schedule.
    Open {
        /// Per second.
        rate: f64,
        /// Lives at once; arrivals beyond are missed.
        max_in_flight: u32,
    },
}

/// When it ends; at least one is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// After this many.
    pub(crate) count: Option<u64>,
    /// After this long; what is running then is lived to its end.
    pub(crate) duration: Option<Duration>,
}

/// Makes the load, and returns how long it took until the last life was over.
pub(crate) async fn run(shape: Shape, bounds: Bounds, life: Life, enough: CancellationToken) -> Duration {
    let start = Instant::now();
    let end = bounds.duration.map(|d| start + d);
    match shape {
        Shape::Closed { concurrency } => closed(concurrency, bounds.count, end, &life, &enough).await,
        Shape::Open { rate, max_in_flight } => {
            open(rate, max_in_flight, bounds.count, start, end, &life, &enough).await;
        }
    }
    start.elapsed()
}

async fn closed(
    concurrency: u32,
    count: Option<u64>,
    end: Option<Instant>,
    life: &Life,
    enough: &CancellationToken,
) {
    let taken = Arc::new(AtomicU64::new(0));
    let mut loops = JoinSet::new();
    for _ in 0..concurrency {
        let (taken, life, enough) = (Arc::clone(&taken), life.clone(), enough.clone());
        loops.spawn(async move {
            loop {
                let now = Instant::now();
                if enough.is_cancelled() || end.is_some_and(|end| now >= end) {
                    return;
                }
                if count.is_some_and(|count| taken.fetch_add(1, Ordering::Relaxed) >= count) {
                    return;
                }
                life.live(now).await;
            }
        });
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(e) = ended {
            error!("a loop of the load generator ended early: {e}");
        }
    }
}

async fn open(
    rate: f64,
    max_in_flight: u32,
    count: Option<u64>,
    start: Instant,
    end: Option<Instant>,
    life: &Life,
    enough: &CancellationToken,
) {
    let (sender, mut arrivals) = mpsc::channel(1024);
    if let Err(e) = pace::start(rate, start, end, count, enough.clone(), sender) {
        error!("no thread for the schedule: {e}");
        return;
    }
    let room = Arc::new(Semaphore::new(usize::try_from(max_in_flight).unwrap_or(usize::MAX)));
    let mut lives = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // Those that are over first, so that the set stays as small as what is in flight.
            Some(_) = lives.join_next() => {}
            arrival = arrivals.recv() => {
                let Some(due) = arrival else { break };
                match Arc::clone(&room).try_acquire_owned() {
                    Ok(place) => {
                        let life = life.clone();
                        lives.spawn(async move {
                            life.live(due).await;
                            drop(place);
                        });
                    }
                    Err(_) => life.tally().lock().missed += 1,
                }
            }
        }
    }
    while lives.join_next().await.is_some() {}
}
