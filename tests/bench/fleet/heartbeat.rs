//! What the heartbeat of a node costs Redis on which nothing has changed: with its list, and without.

use std::collections::BTreeMap;
use std::time::Duration;

use hatchery_tests::RedisServer;
use model::{AgentEpoch, NodeDescription, NodeId, NodeKind, SpawnId, SpawnState, Supply, Timing};
use registry::{
    AgentIdentity, AgentReport, Agreement, Check, Digest, HeardReport, Heartbeat, Keepalive, Registry,
    SpawnReport,
};

use super::spent::Spent;
use crate::table::{Table, us};

const BEATS: u32 = 20_000;
/// Heartbeats on their way to Redis at once.
const AT_ONCE: u32 = 32;

pub(super) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    for count in [0, 10, 100] {
        let scratch = tempfile::tempdir()?;
        let redis = RedisServer::start(scratch.path()).await;
        heartbeats(&redis, count, table).await?;
    }
    Ok(())
}

/// Makes so many calls, [`AT_ONCE`] at a time, as they come from the agents of a large farm.
async fn at_once(count: u32, call: impl AsyncFn(u32) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let each = |first: u32| {
        let call = &call;
        async move {
            for n in (first..count).step_by(usize::try_from(AT_ONCE)?) {
                call(n).await?;
            }
            anyhow::Ok(())
        }
    };
    futures_util::future::try_join_all((0..AT_ONCE).map(each)).await?;
    Ok(())
}

/// A heartbeat of a node on which nothing has changed: with its list, and without.
async fn heartbeats(redis: &RedisServer, count: usize, table: &mut Table) -> anyhow::Result<()> {
    let registry = Registry::open(&redis.url(), "fleet", Timing::FARM)?;
    let spawns: Vec<SpawnReport> = (0..count)
        .map(|_| SpawnReport {
            state: SpawnState::Ready,
            ready: Some(Duration::ZERO),
            last_ping: Some(Duration::ZERO),
            ..SpawnReport::launching(SpawnId::mint(), "ws://node-0.example.com:55000")
        })
        .collect();
    let description = NodeDescription {
        advertise: "http://node-0.example.com:7070".to_owned(),
        endpoint: "ws://{host}:{port}".to_owned(),
        kind: NodeKind { pool: "default".to_owned(), labels: BTreeMap::new(), dedicated: false },
        slots: 128,
        gpus: 0,
        gpu_slots: 0,
        csr: true,
        ssr: true,
        version: "0.1.0".to_owned(),
        viewer_relay: None,
    };
    let identity = AgentIdentity { instance: uuid::Uuid::new_v4(), life: 1 };
    let (node, epoch, digest): (NodeId, _, _) = ("node-0".parse()?, AgentEpoch::mint(), Digest(7));
    let mut report = AgentReport {
        node: node.clone(),
        epoch,
        takeover: true,
        identity,
        accepted: 0,
        agreement: None,
        changes: Vec::new(),
        heartbeat: Some(Heartbeat::new(description.clone(), spawns.clone())),
    };
    registry.report(&report).await?;
    let before = Spent::read(redis).await?;
    let lists = BEATS / 10;
    let list = async |_| anyhow::Ok(registry.report(&report).await.map(drop)?);
    at_once(lists, list).await?;
    let listed = Spent::read(redis).await?;
    report.agreement = Some(Agreement { before: None, after: digest });
    registry.report(&report).await?;
    let start = Spent::read(redis).await?;
    let keepalive = async |beat: u32| {
        let check = match spawns.get(usize::try_from(beat)? % count.max(1)) {
            Some(spawn) if !beat.is_multiple_of(4) => Check::Spawn(Box::new(spawn.clone())),
            None if beat.is_multiple_of(4) => Check::Counts,
            _ => Check::Node { description: Box::new(description.clone()), identity },
        };
        let orders = registry
            .keepalive(&Keepalive {
                node: node.clone(),
                epoch,
                accepted: 0,
                digest,
                spawns: u32::try_from(count)?,
                gpu_spawns: 0,
                generation: 0,
                load: model::Load::default(),
                supply: Supply::default(),
                gpus: Vec::new(),
                heard: HeardReport { since: Some(Duration::from_secs(4)), late: Vec::new() },
                pings: Vec::new(),
                check,
            })
            .await?;
        anyhow::ensure!(orders.differs.is_none(), "{orders:?}");
        Ok(())
    };
    at_once(BEATS, keepalive).await?;
    let end = Spent::read(redis).await?;
    let each = |from: Spent, to: Spent, beats: u32| {
        format!(
            "{} in the script, {} of Redis in all, {} bytes",
            us((to.scripts - from.scripts) / beats),
            us((to.processor - from.processor) / beats),
            (to.bytes - from.bytes) / u64::from(beats)
        )
    };
    table.row(
        format!("heartbeat of a node with {count} spawns on which nothing has changed"),
        each(start, end, BEATS),
        format!("with its list: {}", each(before, listed, lists)),
        "",
    );
    Ok(())
}
