//! The live feed of a large farm: how long the first subscriber waits for the view to be made, and the next for a snapshot; and what a
//! front door needs when it begins with a crowd of subscribers that lost the one before.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use hatchery_tests::metrics::Metrics;
use hatchery_tests::{AgentPlan, Farm, processes};
use model::{AgentEpoch, NodeDescription, NodeKind, SpawnId, SpawnState, Timing};
use registry::{AgentReport, Heartbeat, Registry, SpawnReport};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::live::subscribe;
use crate::table::{Sample, Table, ms};

const NODES: u32 = 1000;
const SPAWNS: u32 = 20;
/// Subscribers to all spawns at the moment when their front door ends.
const CROWD: usize = 1000;

/// One report of every node.
async fn report(registry: &Registry, spawns: &[Vec<SpawnId>], epoch: AgentEpoch) -> anyhow::Result<()> {
    for (n, ids) in spawns.iter().enumerate() {
        let description = NodeDescription {
            advertise: format!("http://10.0.0.1:{n}"),
            endpoint: "ws://{host}:{port}".to_owned(),
            kind: NodeKind { pool: "large".to_owned(), labels: BTreeMap::new(), dedicated: false },
            slots: SPAWNS,
            gpus: 0,
            gpu_slots: 0,
            csr: true,
            ssr: false,
            version: "0.1.0".to_owned(),
            viewer_relay: None,
        };
        let ready = |id: &SpawnId| {
            let (state, ready) = (SpawnState::Ready, Some(Duration::ZERO));
            SpawnReport { state, ready, last_ping: ready, ..SpawnReport::launching(*id, "ws://127.0.0.1:9") }
        };
        let heartbeat = Heartbeat::new(description, ids.iter().map(ready).collect());
        let (node, heartbeat) = (format!("large-{n:04}").parse()?, Some(heartbeat));
        let report = AgentReport {
            node,
            epoch,
            takeover: true,
            identity: registry::AgentIdentity::default(),
            accepted: 0,
            agreement: None,
            changes: Vec::new(),
            heartbeat,
        };
        let orders = registry.report(&report).await?;
        ensure!(!orders.superseded && !orders.unknown, "{orders:?}");
    }
    Ok(())
}

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let mut farm = Farm::builder().plain_log().agent(AgentPlan::slots(1)).start().await;
    let registry = Registry::open(&farm.redis.url(), "test", Timing::FARM)?;
    let ids: Vec<Vec<_>> = (0..NODES).map(|_| (0..SPAWNS).map(|_| SpawnId::mint()).collect()).collect();
    let epoch = AgentEpoch::mint();
    report(&registry, &ids, epoch).await?;
    let began = Instant::now();
    report(&registry, &ids, epoch).await?;
    table.row(
        format!("lists of {NODES} nodes with {SPAWNS} spawns each, one after the other"),
        ms(began.elapsed()),
        "they come after a wipe",
        "",
    );
    let began = Instant::now();
    let _first = subscribe(farm.door(0).addr).await?;
    let first = began.elapsed();
    let began = Instant::now();
    let _next = subscribe(farm.door(0).addr).await?;
    table.row(
        format!("first subscriber to {} spawns, to the snapshot", NODES * SPAWNS),
        ms(first),
        "the next one",
        ms(began.elapsed()),
    );
    // Heartbeats count for ten seconds.
    report(&registry, &ids, epoch).await?;
    farm.doors[0].restart().await;
    crowded(&farm, table).await?;
    farm.shut_down().await;
    Ok(())
}

/// A front door that has just begun, and all that were connected to the one before.
async fn crowded(farm: &Farm, table: &mut Table) -> anyhow::Result<()> {
    let door = farm.door(0).addr;
    let began = Instant::now();
    let crowd = (0..CROWD).map(|_| async move {
        let taken = tokio::spawn(async move {
            let (stream, bytes) = taken(door).await?;
            anyhow::Ok((stream, bytes, began.elapsed()))
        });
        taken.await?
    });
    let crowd = try_join_all(crowd).await.with_context(|| {
        let log = farm.doors[0].role.log();
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        format!("the last lines of its log, backwards: {}", last.join("\n"))
    })?;
    let mut times = Sample::default();
    crowd.iter().for_each(|(_, _, took)| times.add(*took));
    let each = crowd.first().map_or(0, |(_, bytes, _)| bytes / 1024);
    let metrics = Metrics::of(&farm.doors[0].admin).await;
    let encoded = metrics.get(r#"hatchery_frontdoor_live_snapshots_encoded_total{topic="spawns"}"#);
    table.row(
        format!(
            "{CROWD} subscribers to {} spawns after a front door's restart, the last has its snapshot",
            NODES * SPAWNS
        ),
        ms(times.quantile(1.0)),
        "half of them",
        format!(
            "{}; {each} KiB each, encoded {} times",
            ms(times.quantile(0.5)),
            encoded.unwrap_or_default()
        ),
    );
    let memory = |of| processes::memory(farm.doors[0].role.pid(), of) / (1024 * 1024);
    table.row(
        "that front door's memory at the most",
        format!("{} MiB", memory("VmHWM")),
        "afterwards",
        format!("{} MiB", memory("VmRSS")),
    );
    Ok(())
}

/// Subscribes to all spawns, and reads the snapshot without looking at it: how many bytes it has.
async fn taken(door: std::net::SocketAddr) -> anyhow::Result<(TcpStream, usize)> {
    let mut stream = TcpStream::connect(door).await?;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    stream
        .write_all(format!("GET /v1/live HTTP/1.1\r\nHost: {door}\r\n{upgrade}\r\n{key}\r\n\r\n").as_bytes())
        .await?;
    let subscribe = br#"{"type":"subscribe","topic":"spawns"}"#;
    // A text frame, masked with zeros.
    let mut frame = vec![0x81, 0x80 | u8::try_from(subscribe.len())?, 0, 0, 0, 0];
    frame.extend_from_slice(subscribe);
    stream.write_all(&frame).await?;
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let (mut bytes, mut is_snapshot) = (0, false);
    loop {
        let [first, second] = [stream.read_u8().await?, stream.read_u8().await?];
        let length = match second {
            126 => usize::from(stream.read_u16().await?),
            127 => usize::try_from(stream.read_u64().await?)?,
            short => usize::from(short),
        };
        let mut left = length;
        while left > 0 {
            let read = stream.fill_buf().await?;
            ensure!(!read.is_empty(), "the front door closed");
            let some = read.len().min(left);
            // The first bytes of a message say what it is.
            if left == length && first & 0x0f == 1 {
                is_snapshot = read.starts_with(br#"{"type":"subscribed""#);
            }
            stream.consume(some);
            left -= some;
        }
        bytes += if is_snapshot { length } else { 0 };
        if is_snapshot && first & 0x80 != 0 && first & 0x0f < 8 {
            return Ok((stream.into_inner(), bytes));
        }
    }
}
