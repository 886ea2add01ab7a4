//! The agent's ports under attack: connections that take every place there is, faster than anybody can report.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use model::{ExitReason, SpawnState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, TIMEOUT, until};

/// More connections than strangers have places.
const HELD: usize = 300;

/// Connects and says nothing, again and again, until it is told to stop.
struct Flood {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Flood {
    fn of(addr: SocketAddr) -> Self {
        let stop = CancellationToken::new();
        let (told, end) = (stop.clone(), Instant::now() + 2 * TIMEOUT);
        let task = tokio::spawn(async move {
            let mut held = VecDeque::new();
            while !told.is_cancelled() && Instant::now() < end {
                held.extend(TcpStream::connect(addr).await);
                if held.len() > HELD {
                    held.pop_front();
                }
            }
        });
        Self { stop, task }
    }

    async fn ends(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn evicted(farm: &Farm) -> bool {
    let metrics = farm.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("hatchery_agent_liveliness_evicted_total "));
    line.unwrap().trim() != "0"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_ready_may_not_have_come_through_a_flood_is_no_failure() {
    let farm = Farm::start_with(|config| config.ready_timeout = Duration::from_millis(1500)).await;
    let mute = farm.ask("rest");
    match farm.send(&mute).await {
        Outcome::Ended(ended) => assert_eq!(ended.exit.unwrap().reason, "ready-timeout"),
        other => panic!("{other:?}"),
    }
    let flood = Flood::of(farm.agent.liveliness_addr());
    until("connections make room", async || evicted(&farm).await.then_some(())).await;
    let mut mute = farm.ask("rest");
    mute.deadline_ms = 4000;
    match farm.send(&mute).await {
        Outcome::Ended(ended) => {
            let exit = ended.exit.unwrap();
            assert_eq!(exit.reason, "cancelled", "{exit:?}");
            assert!(exit.text.as_ref().unwrap().contains("flooded"), "{exit:?}");
        }
        other => panic!("{other:?}"),
    }
    // Those that speak get through.
    let (id, _) = farm.spawn().await;
    flood.ends().await;
    farm.until_state(id, SpawnState::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spawn_is_ended_for_a_silence_that_a_flood_may_have_made() {
    let farm = Farm::start_with(|config| config.ping_interval = Duration::from_millis(200)).await;
    let flood = Flood::of(farm.agent.liveliness_addr());
    until("connections make room", async || evicted(&farm).await.then_some(())).await;
    let (speaks, _) = farm.spawn_as(STAY).await;
    let (silent, _) = farm.spawn_as("say ready; rest").await;
    // Without a flood it would be ended by now.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for id in [speaks, silent] {
        assert_eq!(farm.info(id).await.state, "ready", "{id}");
    }
    flood.ends().await;
    farm.until_ended(silent, ExitReason::LivelinessLost).await;
    assert_eq!(farm.info(speaks).await.state, "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_requests_at_the_admin_port_take_bounded_descriptors_and_keep_nobody_out() {
    let farm = Farm::start().await;
    let mut held = Vec::new();
    for _ in 0..2 * HELD {
        let mut stream = TcpStream::connect(farm.agent.admin_addr()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nx-").await.unwrap();
        held.push(stream);
    }
    let closed = async {
        for stream in &mut held[..HELD] {
            // Closed with an end or a reset, after whatever was said to it.
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
        }
    };
    timeout(TIMEOUT, closed).await.expect("the oldest ones are closed");
    assert!(farm.metrics().await.contains("hatchery_agent_"), "and who comes is answered");
}
