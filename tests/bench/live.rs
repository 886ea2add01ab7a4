//! The live feed with a crowd of subscribers on one front door: how late they hear of what happens, and what they cost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};
use hatchery_tests::metrics::Metrics;
use hatchery_tests::{AgentPlan, Farm, Look, Phantom, Subscriber, processes, until};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::placements::resident;
use crate::table::{Sample, Table, ms};

/// Subscribers on one front door.
const CROWD: usize = 1000;
/// Processes that are killed, one after the other.
const KILLED: u16 = 100;
/// How long the steady stream lasts, and its events per second.
const STEADY: Duration = Duration::from_secs(15);
const RATE: usize = 20;
/// Bursts, and events in each of them.
const BURSTS: usize = 15;
const BURST: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<TcpStream>;

pub(crate) async fn subscribe(door: SocketAddr) -> anyhow::Result<Socket> {
    let stream = TcpStream::connect(door).await?;
    let (mut socket, _) = client_async(format!("ws://{door}/v1/live"), stream).await?;
    socket.send(Message::text(r#"{"type":"subscribe","topic":"spawns"}"#)).await?;
    loop {
        let frame = timeout(TIMEOUT, socket.next()).await?.context("a frame")??;
        if frame.is_text() && frame.to_text()?.contains(r#""type":"subscribed""#) {
            return Ok(socket);
        }
    }
}

/// An event as one of the crowd received it.
struct Heard {
    at: Instant,
    /// From its number, which is the registry's clock in microseconds, to now by the same machine's clock.
    lag: Duration,
    exited: Option<String>,
}

/// Listens until the end; pings are not counted.
async fn listen(mut socket: Socket, heard: mpsc::Sender<Heard>) {
    while let Some(Ok(message)) = socket.next().await {
        let at = Instant::now();
        let Message::Text(text) = message else { continue };
        if !text.contains(r#""type":"event""#) || text.contains(r#""kind":"spawn.ping""#) {
            continue;
        }
        let now = clock_gettime(ClockId::Realtime);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        let number = |name: &str| text.split_once(name)?.1.split([',', '}']).next()?.parse::<u64>().ok();
        let seq = number(r#""seq":"#).unwrap_or_default();
        let killed = text.contains(r#""signal":"SIGKILL""#);
        let exited = killed.then(|| serde_json::from_str::<Value>(&text).ok()).flatten();
        let exited = exited.and_then(|event| Some(event["spawn"].as_str()?.to_owned()));
        let lag = now.saturating_sub(Duration::from_micros(seq));
        if heard.send(Heard { at, lag, exited }).await.is_err() {
            return;
        }
    }
}

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let plan = AgentPlan::slots(KILLED + 10).port_range(10_000..=10_299).args(&["--initial-use", "10m"]);
    let farm =
        Farm::builder().plain_log().doors(2).door_args(&["--live-buffer", "512"]).agent(plan).start().await;
    let door = farm.door(1).addr;
    let mut phantom = Phantom::start(&farm.redis.url(), "phantom").await.wordy(500);

    // The first ones pay for what does not grow with their number.
    let first = try_join_all((0..50).map(|_| subscribe(door))).await?;
    let pid = farm.doors[1].role.pid();
    let before = resident(pid);
    let mut crowd = first;
    while crowd.len() < CROWD {
        crowd.extend(try_join_all((0..50).map(|_| subscribe(door))).await?);
    }
    let after = resident(pid);
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let each = after.saturating_sub(before) as f64 / (CROWD - 50) as f64;
    table.row(
        format!("front door's memory per subscriber, {CROWD} of them"),
        format!("{each:.1} KiB"),
        "-",
        format!("{after} KiB in all"),
    );

    let (tell, mut heard) = mpsc::channel(65_536);
    let alive = Arc::new(AtomicUsize::new(CROWD));
    for socket in crowd {
        let (tell, alive) = (tell.clone(), Arc::clone(&alive));
        tokio::spawn(async move {
            listen(socket, tell).await;
            alive.fetch_sub(1, Ordering::Relaxed);
        });
    }
    drop(tell);
    killed(&farm, &mut heard, table).await?;
    steady(&mut phantom, &mut heard, table).await?;
    let without = bursts(&mut phantom, &mut heard).await?;
    let lean = resident(pid);
    let (mut slow, _) = Subscriber::to(door, "spawns").await;
    let admin = farm.doors[1].admin;
    // It does not read before it was sent away.
    let closing = async {
        let closed = r#"hatchery_frontdoor_live_closes_total{code="1008"}"#;
        let look = async || {
            let found = Metrics::of(&admin).await.get(closed);
            Look::when(found.is_some(), || "nobody was sent away".to_owned())
        };
        until("the slow reader is sent away", TIMEOUT * 2, look).await;
        slow.closed().await
    };
    let (with, (code, reason)) = tokio::join!(bursts(&mut phantom, &mut heard), closing);
    let with = with?;
    ensure!(code == 1008, "the slow reader was closed with {code} {reason}");
    ensure!(alive.load(Ordering::Relaxed) == CROWD, "nobody else was");
    table.row(
        "front door's memory after a reader that did not read",
        format!("{} KiB", resident(pid)),
        "before",
        format!("{lean} KiB"),
    );
    for (name, share) in [("p50", 0.5), ("p90", 0.9)] {
        let (with, without) = (with.quantile(share), without.quantile(share));
        table.row(
            format!("{BURST} events at once to the last of {CROWD}, one reader not reading, {name}"),
            ms(with),
            format!("all reading {}", ms(without)),
            format!("{:.2} x; it was closed with {code}", with.as_secs_f64() / without.as_secs_f64()),
        );
    }
    farm.shut_down().await;
    Ok(())
}

/// From a process's end to the frames, through the agent, Redis and another front door than the one that started it.
async fn killed(farm: &Farm, heard: &mut mpsc::Receiver<Heard>, table: &mut Table) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    for _ in 0..KILLED {
        let spawn = farm.door(0).spawned(&json!({})).await;
        ids.push(spawn["id"].as_str().context("an id")?.to_owned());
    }
    // What was told of their starts.
    for _ in 0..usize::from(KILLED) * 2 * CROWD {
        timeout(TIMEOUT, heard.recv()).await?.context("an event")?;
    }
    let (mut first, mut last) = (Sample::default(), Sample::default());
    for id in &ids {
        let process = farm.process(id).context("its process")?;
        let began = Instant::now();
        processes::signal(process.pid, Signal::KILL);
        for n in 0..CROWD {
            let news = timeout(TIMEOUT, heard.recv()).await?.context("an event")?;
            ensure!(news.exited.as_ref() == Some(id), "another event came between");
            let took = news.at.duration_since(began);
            if n == 0 {
                first.add(took);
            } else if n == CROWD - 1 {
                last.add(took);
            }
        }
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        table.row(
            format!("process killed to the frame on another front door, {name}"),
            ms(first.quantile(share)),
            format!("the last of {CROWD} subscribers"),
            ms(last.quantile(share)),
        );
    }
    Ok(())
}

/// From an event's commit to its receipt, by every subscriber.
async fn steady(
    phantom: &mut Phantom,
    heard: &mut mpsc::Receiver<Heard>,
    table: &mut Table,
) -> anyhow::Result<()> {
    let mut lags = Sample::default();
    let ticks = usize::try_from(STEADY.as_secs()).unwrap_or(0) * RATE / 2;
    let tell = async {
        let mut pace = interval(Duration::from_secs(2) / u32::try_from(RATE).unwrap_or(1));
        for _ in 0..ticks {
            pace.tick().await;
            phantom.tell(1).await;
        }
        anyhow::Ok(())
    };
    let hear = async {
        for _ in 0..ticks * 2 * CROWD {
            lags.add(timeout(TIMEOUT, heard.recv()).await?.context("an event")?.lag);
        }
        anyhow::Ok(())
    };
    tokio::try_join!(tell, hear)?;
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        table.row(
            format!("event's commit to its receipt, {RATE} a second to {CROWD}, {name}"),
            ms(lags.quantile(share)),
            "-",
            format!("{} frames a second", RATE * CROWD),
        );
    }
    Ok(())
}

/// Bursts as fast as everybody who reads can follow: how long each takes from the first event's commit to the last receipt.
async fn bursts(phantom: &mut Phantom, heard: &mut mpsc::Receiver<Heard>) -> anyhow::Result<Sample> {
    let mut took = Sample::default();
    for _ in 0..BURSTS {
        let began = Instant::now();
        phantom.tell(BURST / 2).await;
        for _ in 0..BURST * CROWD {
            timeout(TIMEOUT, heard.recv()).await?.context("an event")?;
        }
        took.add(began.elapsed());
    }
    // More than a reader's queue and the system hold, and each once.
    let none = async || Look::when(heard.is_empty(), || "more than was told".to_owned());
    until("nothing is left", TIMEOUT, none).await;
    Ok(took)
}
