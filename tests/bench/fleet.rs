//! What a large farm costs the registry: a heartbeat by itself, and a fleet of agents without processes, with their real relays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent::fleet::{SimulatedAgent, Threads};
use agent::{Config, Launcher};
use anyhow::Context as _;
use hatchery_tests::RedisServer;
use model::{
    AgentEpoch, Demand, NodeDescription, NodeId, NodeKind, Placement, RendererType, SpawnId, SpawnState,
    Supply, Timing,
};
use registry::{
    AgentReport, Agreement, Check, Digest, HeardReport, Heartbeat, Identity, Keepalive, Registry, Reserve,
    Reserved, SpawnReport,
};
use tokio::time::{Instant, sleep};

use crate::table::{Sample, Table, ms, us};

const BEATS: u32 = 20_000;
/// Heartbeats on their way to Redis at once.
const AT_ONCE: u32 = 32;
/// How long a fleet is watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Each spawn ends, and another one begins, this often.
const LIFE: Duration = Duration::from_secs(1800);
/// Connections to Redis; agents share them where there are more agents.
const CONNECTIONS: usize = 500;
const FLEET: &str = "fleet";

/// Nodes, and spawns of each, when this part is wanted.
pub(crate) fn size(wanted: &[String]) -> Option<(usize, usize)> {
    let default = (200, 32);
    if wanted.is_empty() {
        return Some(default);
    }
    wanted.iter().find_map(|part| match part.strip_prefix(FLEET)? {
        "" => Some(default),
        size => {
            let (nodes, spawns) = size.strip_prefix('=')?.split_once('x')?;
            Some((nodes.parse().ok()?, spawns.parse().ok()?))
        }
    })
}

pub(crate) async fn measure((nodes, spawns): (usize, usize), table: &mut Table) -> anyhow::Result<()> {
    for count in [0, 10, 100] {
        let scratch = tempfile::tempdir()?;
        let redis = RedisServer::start(scratch.path()).await;
        heartbeats(&redis, count, table).await?;
    }
    let scratch = tempfile::tempdir()?;
    let redis = RedisServer::start(scratch.path()).await;
    fleet(&redis, scratch.path(), nodes, spawns, table).await
}

/// Processor time of Redis in all, time in scripts, their number, and bytes received.
#[derive(Debug, Clone, Copy)]
struct Spent {
    processor: Duration,
    scripts: Duration,
    calls: u64,
    bytes: u64,
}

impl Spent {
    async fn read(redis: &RedisServer) -> anyhow::Result<Self> {
        let text = redis.says("INFO everything").await.context("an answer of Redis")?;
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let seconds = |name| line(name).and_then(|text| text.trim().parse::<f64>().ok()).unwrap_or_default();
        let stat = line("cmdstat_evalsha:").unwrap_or_default();
        let field = |name: &str| -> u64 {
            let found = stat.split(',').find_map(|part| part.strip_prefix(name));
            found.and_then(|text| text.parse().ok()).unwrap_or_default()
        };
        Ok(Self {
            processor: Duration::from_secs_f64(seconds("used_cpu_sys:") + seconds("used_cpu_user:")),
            scripts: Duration::from_micros(field("usec=")),
            calls: field("calls="),
            bytes: line("total_net_input_bytes:")
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or_default(),
        })
    }
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
    let identity = Identity { instance: uuid::Uuid::new_v4(), life: 1 };
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

fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

struct Fleet {
    agents: BTreeMap<NodeId, Arc<SimulatedAgent>>,
    front_door: Registry,
}

impl Fleet {
    /// Starts a spawn as a front door does, and returns how long the reserve took.
    async fn start(&self) -> anyhow::Result<Duration> {
        let spawn = SpawnId::mint();
        let request = Reserve {
            spawn,
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
        let reserved = self.front_door.reserve(&request).await?;
        let took = began.elapsed();
        match reserved {
            Reserved::Slot(slot) => match self.agents.get(&slot.node) {
                Some(agent) if agent.spawn(spawn) => {}
                _ => self.front_door.release(&slot.node, spawn).await?,
            },
            // As after a wipe, or when the last end is still on its way.
            Reserved::Full | Reserved::NoMatch { .. } | Reserved::OverQuota => {
                sleep(Duration::from_millis(20)).await
            }
        }
        Ok(took)
    }

    fn running(&self) -> usize {
        self.agents.values().map(|agent| agent.running()).sum()
    }

    fn lists(&self) -> u64 {
        self.agents.values().map(|agent| agent.lists_sent()).sum()
    }

    /// How long it takes until the registry knows every node, and a slot for every spawn.
    async fn converges(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let nodes = self.front_door.nodes().await?;
            let used: u32 = nodes.iter().map(|node| node.used).sum();
            if nodes.len() == self.agents.len() && usize::try_from(used)? == self.running() {
                return Ok(began.elapsed());
            }
            anyhow::ensure!(
                began.elapsed() < Duration::from_secs(120),
                "{} nodes, {used} slots",
                nodes.len()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A fleet with churn, a wipe, and what both cost.
async fn fleet(
    redis: &RedisServer,
    scratch: &std::path::Path,
    nodes: usize,
    spawns: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let threads = Threads::new()?;
    let open = || Registry::open(&redis.url(), "fleet", Timing::FARM);
    let links = (0..nodes.min(CONNECTIONS)).map(|_| open()).collect::<Result<Vec<_>, _>>()?;
    let mut agents = BTreeMap::new();
    for n in 0..nodes {
        let node: NodeId = format!("node-{n:05}").parse()?;
        let dir = scratch.join(format!("{n}"));
        std::fs::create_dir_all(&dir)?;
        let mut config = Config::new(node.clone(), Launcher::Nothing, dir);
        config.slots = u32::try_from(spawns + spawns / 8 + 1)?;
        config.advertise = Some(format!("http://10.0.{}.{}:7070", n / 250, n % 250));
        config.ports = 20_000..=29_999;
        let agent = SimulatedAgent::start(config, &threads, links[n % links.len()].clone());
        agents.insert(node, Arc::new(agent.map_err(anyhow::Error::msg)?));
        // They do not all begin at one moment.
        sleep(Duration::from_millis(1)).await;
    }
    let fleet = Fleet { agents, front_door: open()? };
    fleet.converges().await?;
    let wanted = nodes * spawns;
    while fleet.running() < wanted {
        fleet.start().await?;
    }
    fleet.converges().await?;
    sleep(Duration::from_secs(3)).await;

    let (mut reserves, mut reports) = (Sample::default(), Sample::default());
    let (lists, before, began) = (fleet.lists(), Spent::read(redis).await?, Instant::now());
    let all: Vec<Arc<SimulatedAgent>> = fleet.agents.values().cloned().collect();
    let pause = LIFE.div_f64(float(wanted.max(1))).min(Duration::from_millis(200));
    let mut pinged = 0;
    while began.elapsed() < WATCHED {
        let due = usize::try_from(began.elapsed().as_millis())? * nodes / 5_000;
        for n in pinged..due {
            all[n % nodes].ping();
        }
        pinged = due;
        let asked = Instant::now();
        if all[fastrand::usize(..nodes)].end_one().await {
            reports.add(asked.elapsed());
            sleep(pause).await;
            reserves.add(fleet.start().await?);
        } else {
            sleep(pause).await;
        }
    }
    let (after, took) = (Spent::read(redis).await?, began.elapsed());
    let what = format!("{nodes} nodes with {spawns} spawns");
    let share = (after.processor - before.processor).as_secs_f64() / took.as_secs_f64();
    table.row(
        format!(
            "{what}, of which {:.1} a second end and begin: a core of Redis",
            float(reports.len()) / took.as_secs_f64()
        ),
        format!("{:.1} %", share * 100.0),
        format!(
            "{:.0} scripts and {:.0} KiB a second",
            float(usize::try_from(after.calls - before.calls)?) / took.as_secs_f64(),
            float(usize::try_from(after.bytes - before.bytes)?) / took.as_secs_f64() / 1024.0
        ),
        format!("{} lists were asked for", fleet.lists() - lists),
    );
    table.row(
        format!("{what}: reserve, p50 and p99"),
        us(reserves.quantile(0.5)),
        us(reserves.quantile(0.99)),
        "",
    );
    table.row(
        format!("{what}: an end until the registry has accepted it, p50 and p99"),
        us(reports.quantile(0.5)),
        us(reports.quantile(0.99)),
        "",
    );
    anyhow::ensure!(redis.flush().await, "it is emptied");
    let converged = fleet.converges().await?;
    table.row(format!("{what}: after Redis was emptied, everything is right again"), ms(converged), "", "");
    Ok(())
}
