//! An agent as the registry sees it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use model::{AgentEpoch, Load, NodeDescription, NodeId, NodeKind, SpawnId, SpawnState, Supply};
use registry::{
    AgentIdentity, AgentReport, Agreement, Change, Check, DesiredStateReport, Difference, Digest,
    HeardReport, Heartbeat, Keepalive, Orders, SpawnReport,
};
use tokio::time::Instant;

use super::{Farm, id};

/// An agent as the registry sees it.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) node: NodeId,
    pub(crate) epoch: AgentEpoch,
    pub(crate) description: NodeDescription,
    pub(crate) spawns: Vec<SpawnReport>,
    pub(crate) forgotten: Vec<SpawnId>,
    pub(crate) serial: u64,
    pub(crate) takeover: bool,
    pub(crate) desired: DesiredStateReport,
    pub(crate) identity: AgentIdentity,
    /// Kept by agents that have an identity.
    pub(crate) accepted: u64,
    /// What the registry has agreed to. Agents without an identity are of releases that send nothing but lists.
    pub(crate) agreed: Option<Digest>,
    /// Heartbeats so far: each has the registry look at something else.
    pub(crate) beats: usize,
    /// What the registry found to be different, in the order in which it did.
    pub(crate) differences: Vec<Difference>,
    /// Pings that the next keepalive brings.
    pub(crate) pings: Vec<(SpawnId, Duration)>,
    pub(crate) heard: HeardReport,
    pub(crate) supply: Supply,
    /// When each spawn was first reported, and how long ago it had been started then.
    pub(crate) since: HashMap<SpawnId, (Instant, Duration)>,
}

impl Agent {
    pub(crate) fn new(node: &str, slots: u32) -> Self {
        Self {
            node: id(node),
            epoch: AgentEpoch::mint(),
            description: NodeDescription {
                advertise: format!("http://{node}:7070"),
                endpoint: format!("ws://{node}:{{port}}"),
                kind: NodeKind { pool: "default".to_owned(), labels: BTreeMap::new(), dedicated: false },
                slots,
                gpus: 0,
                gpu_slots: 0,
                csr: true,
                ssr: true,
                version: "0.1.0".to_owned(),
                viewer_relay: None,
            },
            spawns: Vec::new(),
            forgotten: Vec::new(),
            serial: 0,
            takeover: true,
            desired: DesiredStateReport::default(),
            identity: AgentIdentity::default(),
            accepted: 0,
            agreed: None,
            beats: 0,
            differences: Vec::new(),
            pings: Vec::new(),
            heard: HeardReport::default(),
            supply: Supply::default(),
            since: HashMap::new(),
        }
    }

    /// Has a state directory, and this is its first life there.
    pub(crate) fn identified(mut self) -> Self {
        self.identity = AgentIdentity { instance: uuid::Uuid::new_v4(), life: 1 };
        self
    }

    /// The next life on the same state directory, with the same spawns.
    pub(crate) fn restarted(&self) -> Self {
        let identity = AgentIdentity { life: self.identity.life + 1, ..self.identity };
        let epoch = AgentEpoch::mint();
        Self { epoch, identity, takeover: true, serial: 0, accepted: 0, agreed: None, ..self.clone() }
    }

    /// Reached at another address.
    pub(crate) fn at(mut self, host: &str) -> Self {
        self.description.advertise = format!("http://{host}:7070");
        self
    }

    pub(crate) fn labels(mut self, labels: &[(&str, &str)]) -> Self {
        self.description.kind.labels =
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self
    }

    pub(crate) fn pool(mut self, pool: &str) -> Self {
        pool.clone_into(&mut self.description.kind.pool);
        self
    }

    pub(crate) fn gpus(mut self, gpus: u32, slots: u32) -> Self {
        (self.description.gpus, self.description.gpu_slots) = (gpus, slots);
        self
    }

    pub(crate) fn renderers(mut self, csr: bool, ssr: bool) -> Self {
        (self.description.csr, self.description.ssr) = (csr, ssr);
        self
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            load: self.load(),
            heard: self.heard.clone(),
            supply: self.supply.clone(),
            forgotten: self.forgotten.clone(),
            desired: self.desired.clone(),
            ..Heartbeat::new(self.description.clone(), self.spawns.clone())
        }
    }

    fn load(&self) -> Load {
        Load { cpu: 0.5, memory_free_bytes: 1 << 30 }
    }

    /// Of the list as it is now, whatever the ages in it.
    pub(crate) fn digest(&self) -> Digest {
        let of = |spawn: &SpawnReport| {
            let mut hasher = DefaultHasher::new();
            let (connected, disconnected) = (spawn.connected.is_some(), spawn.disconnected.is_some());
            let viewing = (connected, disconnected, spawn.life_left.is_some());
            let facts = (&spawn.labels, &spawn.tags, &spawn.origin, &spawn.owner);
            format!(
                "{:?}",
                (spawn.id, spawn.state, spawn.renderer, &spawn.endpoint, spawn.gpu, facts, viewing)
            )
            .hash(&mut hasher);
            u128::from(hasher.finish())
        };
        let mut node = DefaultHasher::new();
        format!("{:?}", (&self.description, self.desired.generation)).hash(&mut node);
        Digest(u128::from(node.finish()) + self.spawns.iter().map(of).sum::<u128>())
    }

    async fn send(&mut self, farm: &Farm, changes: Vec<Change>, heartbeat: bool) -> Orders {
        let last = changes.last().map_or(0, |change| change.serial);
        for spawn in self.spawns.iter().chain(changes.iter().map(|change| &change.spawn)) {
            self.since.entry(spawn.id).or_insert_with(|| (Instant::now(), spawn.started));
        }
        let report = self.compose(changes, heartbeat);
        let registry = farm.agents.as_ref().unwrap_or(&farm.registry);
        let orders = registry.report(&report).await.expect("the registry is there");
        self.heed(&orders, last);
        let leads = |agreement: &Agreement| heartbeat || agreement.before.is_some();
        self.agreed = report.agreement.filter(|a| leads(a) && !is_refused(&orders)).map(|a| a.after);
        orders
    }

    pub(crate) fn compose(&self, changes: Vec<Change>, heartbeat: bool) -> AgentReport {
        let agreement = Agreement { before: self.agreed, after: self.digest() };
        AgentReport {
            node: self.node.clone(),
            epoch: self.epoch,
            takeover: self.takeover,
            identity: self.identity,
            accepted: self.accepted,
            agreement: (!self.identity.instance.is_nil()).then_some(agreement),
            changes,
            heartbeat: heartbeat.then(|| self.heartbeat()),
        }
    }

    /// As an agent composes it on whose node nothing has changed: the node is looked at every fourth time, else one spawn after the
    /// other.
    pub(crate) fn keepalive(&self) -> Keepalive {
        let (round, turn) = (self.beats / 4, self.beats % 4);
        let check = match self.spawns.len() {
            count if turn < 3 && count > 0 => {
                let spawn = self.spawns[(round * 3 + turn) % count].clone();
                let since = self.since.get(&spawn.id);
                let started = since.map_or(spawn.started, |(at, age)| at.elapsed() + *age);
                Check::Spawn(Box::new(SpawnReport { started, ..spawn }))
            }
            0 if turn == 0 => Check::Counts,
            _ => Check::Node { description: Box::new(self.description.clone()), identity: self.identity },
        };
        let count = |of: &dyn Fn(&SpawnReport) -> bool| {
            u32::try_from(self.spawns.iter().filter(|spawn| of(spawn)).count()).unwrap()
        };
        Keepalive {
            node: self.node.clone(),
            epoch: self.epoch,
            accepted: self.accepted,
            digest: self.digest(),
            spawns: count(&|_| true),
            gpu_spawns: count(&|spawn| spawn.gpu.is_some()),
            generation: self.desired.generation,
            load: self.load(),
            supply: self.supply.clone(),
            gpus: Vec::new(),
            heard: self.heard.clone(),
            pings: self.pings.clone(),
            check,
        }
    }

    /// Notes what the answer to a report says of it; `last` is the serial of the last change in it. Whether it was accepted.
    pub(crate) fn heed(&mut self, orders: &Orders, last: u64) -> bool {
        let refused = is_refused(orders);
        if !refused {
            self.takeover = false;
            if !self.identity.instance.is_nil() {
                self.accepted = self.accepted.max(last);
            }
        }
        !refused
    }

    /// The first report of an epoch: all at once.
    pub(crate) async fn takeover(&mut self, farm: &Farm, changes: Vec<Change>) -> Orders {
        self.send(farm, changes, true).await
    }

    /// One heartbeat: as long as both agree, without the list.
    pub(crate) async fn beat(&mut self, farm: &Farm) -> Orders {
        self.beats += 1;
        if self.agreed == Some(self.digest()) && self.forgotten.is_empty() {
            let registry = farm.agents.as_ref().unwrap_or(&farm.registry);
            let orders = registry.keepalive(&self.keepalive()).await.expect("the registry is there");
            let Some(difference) = orders.differs else { return orders };
            self.differences.push(difference);
        }
        self.send(farm, Vec::new(), true).await
    }

    pub(crate) fn change(&mut self, spawn: &SpawnReport) -> Change {
        self.serial += 1;
        Change { serial: self.serial, spawn: spawn.clone(), age: Duration::ZERO }
    }

    /// Reports a state of a spawn and remembers it for the next heartbeat.
    pub(crate) async fn report(&mut self, farm: &Farm, spawn: SpawnReport) -> Orders {
        // The test has changed the list without a change that says so: only a list makes that good.
        self.agreed = self.agreed.filter(|agreed| *agreed == self.digest());
        let change = self.change(&spawn);
        self.spawns.retain(|s| s.id != spawn.id);
        if spawn.state != SpawnState::Exited {
            self.spawns.push(spawn);
        }
        self.send(farm, vec![change], false).await
    }

    /// Several changes in one report, with a heartbeat.
    pub(crate) async fn all(&mut self, farm: &Farm, changes: Vec<Change>) -> Orders {
        self.send(farm, changes, true).await
    }

    pub(crate) async fn repeat(&mut self, farm: &Farm, change: Change) -> Orders {
        self.send(farm, vec![change], false).await
    }
}

fn is_refused(orders: &Orders) -> bool {
    orders.superseded || orders.unknown || orders.taken.is_some() || orders.behind.is_some()
}
