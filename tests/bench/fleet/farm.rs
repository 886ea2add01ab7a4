//! The agents of a fleet, and the front door that starts spawns on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::fleet::{FleetAgent, Threads};
use agent::{Config, Launcher};
use model::{Demand, NodeId, Placement, RendererType, SpawnId, Timing};
use registry::{Registry, Reserve, Reserved};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Connections to Redis; agents share them where there are more agents.
const CONNECTIONS: usize = 500;
/// A front door has the registry do what is due by time, and reads all nodes for its snapshot of the farm, this often.
const ROUND: Duration = Duration::from_secs(1);
/// How long a fleet may take to be right again.
const LIMIT: Duration = Duration::from_secs(120);
/// Nodes begin so long after each other, and later for each spawn that they bring.
const BEGINS: Duration = Duration::from_millis(1);
const BEGINS_SPAWN: Duration = Duration::from_micros(60);
/// Between two looks at a fleet that is to be right again; of a large one a look takes long itself.
const LOOKS: Duration = Duration::from_millis(20);

/// See the module's documentation.
pub(super) struct Fleet {
    agents: BTreeMap<NodeId, Arc<FleetAgent>>,
    pub(super) front_door: Registry,
    links: Vec<Registry>,
    threads: Threads,
    scratch: PathBuf,
    spawns: usize,
    rounds: JoinHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.rounds.abort();
    }
}

/// What a front door does all the time.
async fn rounds(registry: Registry) {
    loop {
        registry.sweep().await.ok();
        registry.nodes().await.ok();
        sleep(ROUND).await;
    }
}

impl Fleet {
    /// Starts so many nodes, and so many spawns on each; returns when the registry knows all of it.
    pub(super) async fn start(
        url: &str,
        scratch: &Path,
        nodes: usize,
        spawns: usize,
    ) -> anyhow::Result<Self> {
        let open = || Registry::open(url, "fleet", Timing::FARM);
        let links = (0..nodes.min(CONNECTIONS)).map(|_| open()).collect::<Result<Vec<_>, _>>()?;
        let mut fleet = Self {
            agents: BTreeMap::new(),
            rounds: tokio::spawn(rounds(open()?)),
            front_door: open()?,
            links,
            threads: Threads::new()?,
            scratch: scratch.to_owned(),
            spawns,
        };
        for n in 0..nodes {
            fleet.start_node(n)?;
            let agent = &fleet.agents[&Self::name(n)?];
            for _ in 0..spawns {
                anyhow::ensure!(agent.spawn(SpawnId::mint()), "it has room");
            }
            // They do not all begin at one moment.
            sleep(BEGINS + BEGINS_SPAWN * u32::try_from(spawns)?).await;
        }
        fleet.converges().await?;
        Ok(fleet)
    }

    fn name(n: usize) -> anyhow::Result<NodeId> {
        Ok(format!("node-{n:05}").parse()?)
    }

    /// Starts an agent, or the next one with the same state.
    pub(super) fn start_node(&mut self, n: usize) -> anyhow::Result<()> {
        let node = Self::name(n)?;
        let dir = self.scratch.join(format!("{n}"));
        std::fs::create_dir_all(&dir)?;
        let mut config = Config::new(node.clone(), Launcher::Nothing, dir);
        config.slots = u32::try_from(self.spawns + self.spawns / 8 + 1)?;
        config.advertise = Some(format!("http://10.0.{}.{}:7070", n / 250, n % 250));
        config.ports = 20_000..=29_999;
        let link = self.links[n % self.links.len()].clone();
        let agent = FleetAgent::start(config, &self.threads, link);
        self.agents.insert(node, Arc::new(agent.map_err(anyhow::Error::msg)?));
        Ok(())
    }

    /// Ends an agent at once, with all that ran there.
    pub(super) fn kill_node(&mut self, n: usize) -> anyhow::Result<()> {
        self.agents.remove(&Self::name(n)?);
        Ok(())
    }

    pub(super) fn all(&self) -> Vec<Arc<FleetAgent>> {
        self.agents.values().cloned().collect()
    }

    /// Reserves a slot as a front door does, and starts a spawn there or releases it. Returns how long the reserve took.
    pub(super) async fn reserve(&self, starts: bool) -> anyhow::Result<Duration> {
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
                Some(agent) if starts && agent.spawn(spawn) => {}
                _ => self.front_door.release(&slot.node, spawn).await?,
            },
            // As after a wipe, or when the last end is still on its way.
            Reserved::Full | Reserved::NoMatch { .. } | Reserved::OverQuota => {
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(took)
    }

    pub(super) fn running(&self) -> usize {
        self.agents.values().map(|agent| agent.running()).sum()
    }

    pub(super) fn lists(&self) -> u64 {
        self.agents.values().map(|agent| agent.lists_sent()).sum()
    }

    /// What the registry has: nodes that are up, and slots that are taken on them.
    pub(super) async fn known(&self) -> anyhow::Result<(usize, usize)> {
        let nodes = self.front_door.nodes().await?;
        let up = nodes.iter().filter(|node| node.availability == model::Availability::Up);
        let (mut count, mut used) = (0, 0_u32);
        for node in up {
            count += 1;
            used += node.used;
        }
        Ok((count, usize::try_from(used)?))
    }

    /// How long it takes until the registry has every node up, a slot for every spawn, and a record of each.
    pub(super) async fn converges(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let nodes: Vec<NodeId> = self.agents.keys().cloned().collect();
        loop {
            // While it is away, it has nothing.
            let asked = Instant::now();
            let (up, used) = self.known().await.unwrap_or_default();
            let looked = asked.elapsed();
            let is_right = up == self.agents.len() && used == self.running();
            if is_right {
                let took = began.elapsed();
                if self.front_door.living(&nodes).await?.len() == self.running() {
                    return Ok(took);
                }
            }
            anyhow::ensure!(began.elapsed() < LIMIT, "{up} nodes, {used} slots");
            sleep(LOOKS.max(looked * 4)).await;
        }
    }
}
