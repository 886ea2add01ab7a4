//! A registry of each kind, and helpers that act as agents and front doors.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::{
    AgentEpoch, Availability, Demand, Exit, ExitReason, Load, NodeDescription, NodeId, NodeKind, Placement,
    RendererType, SpawnId, SpawnState, Supply, Tag, TicketId, Timing,
};
use registry::{
    AgentReport, Change, DesiredState, Heartbeat, Identity, Orders, Registry, Reservation, Reserve, Reserved,
    SpawnReport,
};

use crate::servers::{Cluster, RedisServer, Secure};

/// Runs the test on both backends, and on Redis in each form.
#[macro_export]
macro_rules! on_all {
    ($(#[$doc:meta])* async fn $name:ident($farm:ident: &Farm) $body:block) => {
        mod $name {
            use super::*;
            use $crate::support::Farm;

            $(#[$doc])*
            async fn test($farm: &Farm) $body

            #[tokio::test]
            async fn embedded() {
                test(&Farm::embedded()).await;
            }

            #[tokio::test]
            async fn redis() {
                test(&Farm::redis().await).await;
            }

            #[tokio::test]
            async fn redis_with_tls() {
                test(&Farm::redis_with_tls().await).await;
            }

            #[tokio::test]
            async fn redis_cluster() {
                test(&Farm::redis_cluster().await).await;
            }
        }
    };
}

/// Intervals in which a test need not wait for long, and a busy machine still keeps up.
pub(crate) const TIMING: Timing = Timing {
    stale: Duration::from_millis(400),
    down: Duration::from_millis(800),
    reservation: Duration::from_millis(300),
    idempotency: Duration::from_secs(60),
    claim: Duration::from_millis(300),
    place: Duration::from_millis(400),
    history: Duration::from_secs(60),
    history_count: 1000,
    history_bytes: 64 << 20,
    audit_count: 100,
    events_count: 10_000,
    forget: Duration::from_secs(60),
};

fn open(url: &str, farm: &str, timing: Timing) -> Registry {
    Registry::open(url, farm, timing).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) struct Farm {
    /// As front doors connect.
    pub(crate) registry: Registry,
    /// As agents connect, where that is another user.
    agents: Option<Registry>,
    redis: Option<RedisServer>,
}

impl Farm {
    pub(crate) fn embedded() -> Self {
        Self::embedded_with(TIMING)
    }

    pub(crate) fn embedded_with(timing: Timing) -> Self {
        Self { registry: Registry::embedded(timing), agents: None, redis: None }
    }

    pub(crate) async fn redis() -> Self {
        Self::redis_with(TIMING).await
    }

    pub(crate) async fn redis_with(timing: Timing) -> Self {
        let redis = RedisServer::with_users().await;
        let [registry, agents] =
            ["frontdoor", "agent"].map(|user| open(&redis.url_as(user), "test", timing.clone()));
        Self { registry, agents: Some(agents), redis: Some(redis) }
    }

    pub(crate) async fn redis_with_tls() -> Self {
        Self::on(&Secure::shared().await.url()).connected().await
    }

    pub(crate) async fn redis_cluster() -> Self {
        Self::on(&Cluster::shared().await.url()).connected().await
    }

    /// The first call fails when a busy machine takes longer to connect than a call may take.
    async fn connected(self) -> Self {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while let Err(error) = self.registry.check().await {
            assert!(tokio::time::Instant::now() < deadline, "not connected: {error}");
        }
        self
    }

    /// One of several farms that share a registry.
    pub(crate) fn on(url: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        Self::named(url, &format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn named(url: &str, name: &str) -> Self {
        Self::on_with(url, name, TIMING)
    }

    pub(crate) fn on_with(url: &str, name: &str, timing: Timing) -> Self {
        Self { registry: open(url, name, timing), agents: None, redis: None }
    }

    pub(crate) async fn reserve(&self, ask: &Reserve) -> Reserved {
        self.registry.reserve(ask).await.expect("the registry is there")
    }

    /// Reserves where there must be room.
    pub(crate) async fn take(&self, ask: &Reserve) -> Reservation {
        match self.reserve(ask).await {
            Reserved::Slot(reservation) => reservation,
            other => panic!("a slot was expected, not {other:?}"),
        }
    }

    pub(crate) async fn used(&self, node: &str) -> (u32, u32) {
        let node = self.registry.node(&id(node)).await.expect("the registry is there").expect("a known node");
        (node.used, node.gpu_used)
    }

    /// The server, where it is the farm's own.
    pub(crate) fn server(&self) -> &RedisServer {
        self.redis.as_ref().expect("a farm with a Redis of its own")
    }

    /// How many an owner has, where that can be seen: in a Redis of one's own.
    pub(crate) async fn owned(&self, owner: &str) -> Option<u32> {
        let query = format!("HLEN {{hatchery:test}}:owned:{owner}");
        Some(self.redis.as_ref()?.query(&query).await.expect("the registry is there"))
    }

    /// Waits for the clock of the registry; both kinds live in real time. Front doors sweep meanwhile, so that silence is
    /// judged.
    pub(crate) async fn pass(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time + Duration::from_millis(20);
        let step = self.registry.timing().stale / 8;
        loop {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(step)).await;
            self.registry.sweep().await.expect("the registry is there");
        }
    }

    /// Waits until a node that is down is not known any more.
    pub(crate) async fn is_forgotten(&self, node: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.registry.node(&id(node)).await.expect("the registry is there").is_some() {
            assert!(tokio::time::Instant::now() < deadline, "{node} is not forgotten");
            self.pass(self.registry.timing().stale / 8).await;
        }
    }

    /// Waits until a node is seen so, while front doors sweep. A machine too busy to sweep in time sees it later.
    pub(crate) async fn becomes(&self, node: &str, availability: Availability) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.registry.node(&id(node)).await.expect("the registry is there");
            if seen.as_ref().is_some_and(|node| node.availability == availability) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{node} is not {availability}: {seen:?}");
            self.pass(self.registry.timing().stale / 8).await;
        }
    }
}

pub(crate) fn id(name: &str) -> NodeId {
    name.parse().expect("a good name")
}

pub(crate) fn tag(key: &str, value: &str) -> Tag {
    Tag { key: key.to_owned(), value: value.to_owned() }
}

pub(crate) fn csr() -> Reserve {
    wanting(RendererType::Csr)
}

pub(crate) fn ssr() -> Reserve {
    wanting(RendererType::Ssr)
}

fn wanting(renderer: RendererType) -> Reserve {
    Reserve {
        spawn: SpawnId::mint(),
        demand: Demand { renderer, pool: None, labels: BTreeMap::new() },
        placement: Placement::Spread,
        avoid: Vec::new(),
        place: None,
        number: None,
        probed: false,
        owner: None,
        most: None,
    }
}

pub(crate) trait Ask {
    fn label(self, key: &str, value: &str) -> Self;
    fn pool(self, pool: &str) -> Self;
    fn avoid(self, node: &str) -> Self;
    fn pack(self) -> Self;
    fn place(self, ticket: TicketId) -> Self;
    fn of(self, owner: &str, most: u32) -> Self;
}

impl Ask for Reserve {
    fn label(mut self, key: &str, value: &str) -> Self {
        self.demand.labels.insert(key.to_owned(), value.to_owned());
        self
    }
    fn pool(mut self, pool: &str) -> Self {
        self.demand.pool = Some(pool.to_owned());
        self
    }
    fn avoid(mut self, node: &str) -> Self {
        self.avoid.push(id(node));
        self
    }
    fn pack(mut self) -> Self {
        self.placement = Placement::Pack;
        self
    }
    fn place(mut self, ticket: TicketId) -> Self {
        self.place = Some(ticket);
        self
    }
    fn of(mut self, owner: &str, most: u32) -> Self {
        self.owner = Some(owner.parse().expect("a good name"));
        self.most = Some(most);
        self
    }
}

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
    pub(crate) desired: DesiredState,
    pub(crate) identity: Identity,
    /// Kept by agents that have an identity.
    pub(crate) accepted: u64,
    pub(crate) supply: Supply,
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
            desired: DesiredState::default(),
            identity: Identity::default(),
            accepted: 0,
            supply: Supply::default(),
        }
    }

    /// Has a state directory, and this is its first life there.
    pub(crate) fn identified(mut self) -> Self {
        self.identity = Identity { instance: uuid::Uuid::new_v4(), life: 1 };
        self
    }

    /// The next life on the same state directory, with the same spawns.
    pub(crate) fn restarted(&self) -> Self {
        let identity = Identity { life: self.identity.life + 1, ..self.identity };
        let epoch = AgentEpoch::mint();
        Self { epoch, identity, takeover: true, serial: 0, accepted: 0, ..self.clone() }
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
            load: Load { cpu: 0.5, memory_free_bytes: 1 << 30 },
            supply: self.supply.clone(),
            forgotten: self.forgotten.clone(),
            desired: self.desired.clone(),
            ..Heartbeat::new(self.description.clone(), self.spawns.clone())
        }
    }

    async fn send(&mut self, farm: &Farm, changes: Vec<Change>, heartbeat: bool) -> Orders {
        let last = changes.last().map_or(0, |change| change.serial);
        let report = self.compose(changes, heartbeat);
        let registry = farm.agents.as_ref().unwrap_or(&farm.registry);
        let orders = registry.report(&report).await.expect("the registry is there");
        self.heed(&orders, last);
        orders
    }

    pub(crate) fn compose(&self, changes: Vec<Change>, heartbeat: bool) -> AgentReport {
        AgentReport {
            node: self.node.clone(),
            epoch: self.epoch,
            takeover: self.takeover,
            identity: self.identity,
            accepted: self.accepted,
            changes,
            heartbeat: heartbeat.then(|| self.heartbeat()),
        }
    }

    /// Notes what the answer to a report says of it; `last` is the serial of the last change in it. Whether it was accepted.
    pub(crate) fn heed(&mut self, orders: &Orders, last: u64) -> bool {
        let refused =
            orders.superseded || orders.unknown || orders.taken.is_some() || orders.behind.is_some();
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

    pub(crate) async fn beat(&mut self, farm: &Farm) -> Orders {
        self.send(farm, Vec::new(), true).await
    }

    pub(crate) fn change(&mut self, spawn: &SpawnReport) -> Change {
        self.serial += 1;
        Change { serial: self.serial, spawn: spawn.clone(), age: Duration::ZERO }
    }

    /// Reports a state of a spawn and remembers it for the next heartbeat.
    pub(crate) async fn report(&mut self, farm: &Farm, spawn: SpawnReport) -> Orders {
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

pub(crate) fn launching(spawn: SpawnId) -> SpawnReport {
    SpawnReport::launching(spawn, "ws://node:55000")
}

pub(crate) fn ready(spawn: SpawnId) -> SpawnReport {
    SpawnReport {
        state: SpawnState::Ready,
        ready: Some(Duration::ZERO),
        last_ping: Some(Duration::ZERO),
        ..launching(spawn)
    }
}

pub(crate) fn exited(spawn: SpawnId, reason: ExitReason) -> SpawnReport {
    SpawnReport {
        state: SpawnState::Exited,
        ended: Some(Duration::ZERO),
        exit: Some(Exit { reason, code: Some(0), signal: None, text: None }),
        ..launching(spawn)
    }
}
