//! A farm of any size that exists in the registry only: its nodes go on reporting what they run, and none of it does. For pages and lists of
//! farms that no machine of a test could hold. Nothing can be started there, and no agent answers.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{
    AgentEpoch, Exit, ExitReason, GpuSlots, Load, NodeDescription, NodeId, NodeKind, RendererType, SpawnId,
    SpawnState, Timing,
};
use registry::{AgentReport, Change, Heartbeat, Registry, SpawnReport};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// What each node of such a farm has.
#[derive(Debug, Clone, Copy)]
pub struct PhantomPlan {
    /// How many there are.
    pub nodes: usize,
    /// Slots of each.
    pub slots: u32,
    /// Of each so many nodes one has a free slot; 0: the farm is full.
    pub free_each: usize,
    /// Of each so many nodes one fails what it starts; 0: none does.
    pub failing_each: usize,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    epoch: AgentEpoch,
    description: NodeDescription,
    number: usize,
    spawns: Vec<SpawnId>,
}

/// See the module's documentation. It ends when it is dropped: then its nodes are silent.
#[derive(Debug)]
pub struct PhantomFarm {
    task: JoinHandle<()>,
}

impl Drop for PhantomFarm {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PhantomFarm {
    /// Starts the farm `test` on this Redis; returns once every node has reported.
    pub async fn start(url: &str, plan: PhantomPlan) -> Self {
        let registry = Registry::open(url, "test", Timing::FARM).expect("a good URL");
        let nodes: Vec<Node> = (0..plan.nodes).map(|number| Node::new(number, plan)).collect();
        let all = nodes.iter().map(async |node| {
            let failing = plan.failing_each > 0 && node.number % plan.failing_each == plan.failing_each - 1;
            node.report(&registry, true, if failing { node.failures() } else { Vec::new() }).await;
        });
        futures_util::future::join_all(all).await;
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let all = nodes.iter().map(async |node| node.report(&registry, false, Vec::new()).await);
                futures_util::future::join_all(all).await;
            }
        });
        Self { task }
    }
}

impl Node {
    fn new(number: usize, plan: PhantomPlan) -> Self {
        let has_room = plan.free_each > 0 && number.is_multiple_of(plan.free_each);
        let host = format!("render-{number:04}.example");
        let sdk = if number.is_multiple_of(2) { "2024.8" } else { "2025.1" };
        let labels = BTreeMap::from([("sdk".to_owned(), sdk.to_owned())]);
        let description = NodeDescription {
            advertise: "http://127.0.0.1:9".to_owned(),
            endpoint: format!("ws://{host}:{{port}}"),
            kind: NodeKind { pool: "default".to_owned(), labels, dedicated: false },
            slots: plan.slots,
            gpus: 1,
            gpu_slots: plan.slots,
            csr: true,
            ssr: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            viewer_relay: None,
        };
        Self {
            id: format!("render-{number:04}").parse().expect("a good name"),
            epoch: AgentEpoch::mint(),
            description,
            number,
            spawns: (0..plan.slots - u32::from(has_room)).map(|_| SpawnId::mint()).collect(),
        }
    }

    fn spawn(&self, at: usize, id: SpawnId) -> SpawnReport {
        let age = Duration::from_secs(60 + 37 * (at as u64 + self.number as u64 % 50));
        SpawnReport {
            state: SpawnState::Ready,
            renderer: if at.is_multiple_of(3) { RendererType::Ssr } else { RendererType::Csr },
            gpu: at.is_multiple_of(3).then_some(0),
            started: age,
            ready: Some(age),
            last_ping: Some(Duration::from_secs(2)),
            connected: Some(age),
            ..SpawnReport::launching(id, format!("ws://render-{:04}.example:{}", self.number, 55_000 + at))
        }
    }

    /// Servers that die a second after they were ready.
    fn failures(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for serial in 1..=6 {
            let exit = Exit {
                reason: ExitReason::Failed,
                code: Some(6),
                signal: None,
                text: Some("invalid license".to_owned()),
            };
            let spawn = SpawnReport {
                state: SpawnState::Exited,
                started: Duration::from_secs(2),
                ready: Some(Duration::from_secs(1)),
                ended: Some(Duration::ZERO),
                exit: Some(exit),
                ..SpawnReport::launching(SpawnId::mint(), "ws://render.example:55000")
            };
            changes.push(Change { serial, spawn, age: Duration::ZERO });
        }
        changes
    }

    async fn report(&self, registry: &Registry, takeover: bool, changes: Vec<Change>) {
        let spawns: Vec<SpawnReport> =
            self.spawns.iter().enumerate().map(|(at, id)| self.spawn(at, *id)).collect();
        let on_gpu = spawns.iter().filter(|spawn| spawn.gpu.is_some()).count();
        let mut heartbeat = Heartbeat::new(self.description.clone(), spawns);
        heartbeat.load = Load {
            cpu: f64::from(u32::try_from(self.number % 90).unwrap_or(0)) / 100.0,
            memory_free_bytes: 21 << 30,
        };
        heartbeat.gpus = vec![GpuSlots {
            index: 0,
            total: self.description.gpu_slots,
            used: u32::try_from(on_gpu).unwrap_or(u32::MAX),
        }];
        let report = AgentReport {
            node: self.id.clone(),
            epoch: self.epoch,
            takeover,
            identity: registry::AgentIdentity::default(),
            accepted: 0,
            agreement: None,
            changes,
            heartbeat: Some(heartbeat),
        };
        // A Redis that is stopped at the end of a test is none of its business.
        registry.report(&report).await.ok();
    }
}
