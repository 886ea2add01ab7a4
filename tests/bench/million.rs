//! Lists, sweeps, take-overs and reserves of a farm at the size that is aimed at: 10 000 nodes with 100 spawns each, none of whose steps in
//! Redis may take long. Its records are made by the real scripts.
//!
//! `cargo bench -p hatchery-tests -- million` takes minutes and some gigabytes, so it runs only when it is named; `million=1000x100` is a
//! smaller one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hatchery_tests::RedisServer;
use model::{
    AgentEpoch, Demand, NodeDescription, NodeKind, Placement, RendererType, SpawnId, SpawnState, Timing,
};
use registry::{
    AgentIdentity, AgentReport, Heartbeat, NodeFilter, Registry, Reserve, Reserved, SpawnFilter, SpawnReport,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::table::{Sample, Table, ms};

const PART: &str = "million";
/// Reports on their way to Redis at once.
const AT_ONCE: usize = 8;
/// Owners of all spawns.
const OWNERS: usize = 1000;
/// Of so many nodes one gets a new agent.
const TAKEN_OVER: usize = 20;
/// Slots that are asked for.
const RESERVES: usize = 500;
/// No step of Redis should take longer.
const LONG: Duration = Duration::from_millis(5);

/// Nodes, and spawns of each, when this part is wanted.
pub(crate) fn size(wanted: &[String]) -> Option<(usize, usize)> {
    wanted.iter().find_map(|part| match part.strip_prefix(PART)? {
        "" => Some((10_000, 100)),
        size => {
            let (nodes, spawns) = size.strip_prefix('=')?.split_once('x')?;
            Some((nodes.parse().ok()?, spawns.parse().ok()?))
        }
    })
}

/// What a node reports first: it has these spawns.
fn report(node: usize, ids: &[SpawnId]) -> anyhow::Result<AgentReport> {
    let description = NodeDescription {
        advertise: format!("http://10.0.0.1:{node}"),
        endpoint: "ws://{host}:{port}".to_owned(),
        kind: NodeKind { pool: "large".to_owned(), labels: BTreeMap::new(), dedicated: false },
        slots: u32::try_from(ids.len())? + 1,
        gpus: 0,
        gpu_slots: 0,
        csr: true,
        ssr: false,
        version: "0.1.0".to_owned(),
        viewer_relay: None,
    };
    let ready = |(n, id): (usize, &SpawnId)| {
        let owner = format!("key:owner-{}", (node + n) % OWNERS).parse().ok();
        let launching = SpawnReport::launching(*id, "ws://127.0.0.1:9");
        SpawnReport { state: SpawnState::Ready, ready: Some(Duration::ZERO), owner, ..launching }
    };
    Ok(AgentReport {
        node: format!("large-{node:05}").parse()?,
        epoch: AgentEpoch::mint(),
        takeover: true,
        identity: AgentIdentity::default(),
        accepted: 0,
        agreement: None,
        changes: Vec::new(),
        heartbeat: Some(Heartbeat::new(description, ids.iter().enumerate().map(ready).collect())),
    })
}

/// Every node reports, some at once.
async fn fill(registry: &Registry, nodes: &[Vec<SpawnId>]) -> anyhow::Result<()> {
    let mut under_way = JoinSet::new();
    for (node, ids) in nodes.iter().enumerate() {
        if under_way.len() == AT_ONCE {
            under_way.join_next().await.context("one")???;
        }
        let (registry, report) = (registry.clone(), report(node, ids)?);
        under_way.spawn(async move {
            let orders = registry.report(&report).await?;
            ensure!(!orders.superseded && !orders.unknown, "{orders:?}");
            anyhow::Ok(())
        });
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(())
}

/// Steps of Redis that took longer than they should since they were last counted, and the longest.
async fn long_steps(redis: &RedisServer) -> anyhow::Result<String> {
    let log = redis.says("SLOWLOG GET 128").await.context("an answer of Redis")?;
    redis.says("SLOWLOG RESET").await.context("an answer of Redis")?;
    // An entry is its number, when, how long, and the command: `*6 :1 :… :5123 *3 …`.
    let took = log.split("\r\n*6\r\n").skip(usize::from(!log.starts_with("*6"))).filter_map(|entry| {
        entry.lines().filter_map(|line| line.strip_prefix(':')).nth(2)?.trim().parse::<u64>().ok()
    });
    let took: Vec<u64> = took.collect();
    Ok(match took.iter().max() {
        None => format!("no step of Redis over {}", ms(LONG)),
        Some(most) => {
            format!(
                "{} steps of Redis over {}, the longest {}",
                took.len(),
                ms(LONG),
                ms(Duration::from_micros(*most))
            )
        }
    })
}

/// Slots that are asked for, one after the other.
async fn reserves(
    when: &str,
    registry: &Registry,
    nodes: usize,
    table: &mut Table,
    redis: &RedisServer,
) -> anyhow::Result<()> {
    let (mut times, mut found) = (Sample::default(), 0);
    for _ in 0..RESERVES {
        let request = Reserve {
            spawn: SpawnId::mint(),
            demand: Demand { renderer: RendererType::Csr, pool: None, labels: BTreeMap::new() },
            placement: Placement::Spread,
            avoid: Vec::new(),
            place: None,
            number: None,
            probed: false,
            owner: None,
            most: None,
        };
        let began = Instant::now();
        let reserved = registry.reserve(&request).await?;
        times.add(began.elapsed());
        if let Reserved::Slot(slot) = reserved {
            found += 1;
            registry.release(&slot.node, request.spawn).await?;
        }
    }
    table.row(
        format!("reserves among {nodes} nodes when {when}"),
        format!("p50 {}, the longest {}", ms(times.quantile(0.5)), ms(times.quantile(1.0))),
        format!("{found} of {RESERVES} got a slot"),
        long_steps(redis).await?,
    );
    Ok(())
}

async fn listed(registry: &Registry, filter: &SpawnFilter) -> anyhow::Result<(Duration, usize)> {
    let began = Instant::now();
    let page = registry.spawns(filter).await?;
    Ok((began.elapsed(), page.spawns.len()))
}

pub(crate) async fn measure((nodes, spawns): (usize, usize), table: &mut Table) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let redis = RedisServer::start(scratch.path()).await;
    let registry = Registry::open(&redis.url(), "million", Timing::FARM)?;
    redis.says(&format!("CONFIG SET slowlog-log-slower-than {}", LONG.as_micros())).await;
    let began = Instant::now();
    let ids: Vec<Vec<SpawnId>> = (0..nodes).map(|_| (0..spawns).map(|_| SpawnId::mint()).collect()).collect();
    fill(&registry, &ids).await?;
    let memory = redis.says("INFO memory").await.context("an answer of Redis")?;
    let memory =
        memory.lines().find_map(|line| line.strip_prefix("used_memory_human:")).unwrap_or("?").to_owned();
    table.row(
        format!("{nodes} nodes with {spawns} spawns each, listed to an empty Redis"),
        ms(began.elapsed()),
        format!("Redis has {memory}"),
        long_steps(&redis).await?,
    );
    lists(&registry, nodes, spawns, table, &redis).await?;
    let began = Instant::now();
    fill(&registry, &ids[..nodes / TAKEN_OVER]).await?;
    table.row(
        format!("{} nodes have a new agent, which lists the same spawns", nodes / TAKEN_OVER),
        ms(began.elapsed()),
        "-",
        long_steps(&redis).await?,
    );
    reserves("all nodes report", &registry, nodes, table, &redis).await?;
    // Silence counts from when it is judged, and each sweep notes it of a few nodes only.
    let silent = Instant::now();
    while silent.elapsed() < Timing::FARM.stale * 2 {
        registry.sweep().await?;
        sleep(Duration::from_millis(500)).await;
    }
    reserves("all nodes have just fallen silent", &registry, nodes, table, &redis).await?;
    let all = nodes * spawns;
    let began = Instant::now();
    let (mut steps, mut longest) = (0, Sample::default());
    // All agents are silent by now, which counts from the first look on.
    let mut idle_since = Instant::now();
    while idle_since.elapsed() < Timing::FARM.down {
        let step = Instant::now();
        let more = registry.sweep().await?;
        longest.add(step.elapsed());
        steps += 1;
        if more {
            idle_since = Instant::now();
        } else {
            sleep(Duration::from_millis(200)).await;
        }
    }
    table.row(
        format!("sweeps that find all {nodes} nodes gone and call {all} spawns lost"),
        format!(
            "{steps} steps, p50 {}, the longest {}",
            ms(longest.quantile(0.5)),
            ms(longest.quantile(1.0))
        ),
        format!("in all {}", ms(began.elapsed())),
        long_steps(&redis).await?,
    );
    Ok(())
}

async fn lists(
    registry: &Registry,
    nodes: usize,
    spawns: usize,
    table: &mut Table,
    redis: &RedisServer,
) -> anyhow::Result<()> {
    let all = nodes * spawns;
    let began = Instant::now();
    let mut filter = NodeFilter { limit: 1000, ..NodeFilter::default() };
    let mut count = 0;
    loop {
        let page = registry.nodes_page(&filter).await?;
        count += page.nodes.len();
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            break;
        }
    }
    ensure!(count == nodes, "{count} of {nodes} nodes");
    table.row(
        format!("all {nodes} nodes in pages of 1000"),
        ms(began.elapsed()),
        "-",
        long_steps(redis).await?,
    );
    let page = || SpawnFilter { limit: 100, ..SpawnFilter::default() };
    let owners =
        |count: usize| (0..count).map(|n| format!("key:owner-{n}").parse()).collect::<Result<Vec<_>, _>>();
    let hour_ago = registry.now().await?.before(Duration::from_secs(3600));
    for (what, filter) in [
        ("100 spawns of all", page()),
        ("100 spawns of one owner", SpawnFilter { owners: owners(1)?, ..page() }),
        ("100 spawns of ten owners", SpawnFilter { owners: owners(10)?, ..page() }),
        ("100 spawns that ended in the last hour", SpawnFilter { ended_since: Some(hour_ago), ..page() }),
    ] {
        let (took, found) = listed(registry, &filter).await?;
        table.row(format!("{what}, of {all}"), ms(took), format!("{found} found"), long_steps(redis).await?);
    }
    Ok(())
}
