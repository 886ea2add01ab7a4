//! A registry of each kind, and helpers that act as agents and front doors.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::{
    Availability, Demand, Exit, ExitReason, NodeId, Placement, RendererType, SpawnId, SpawnState, Tag,
    TicketId, Timing,
};
use registry::{Registry, Reservation, Reserve, Reserved, SameEverywhere, SpawnReport};

mod agent;

pub(crate) use self::agent::Agent;
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
    pub(crate) agents: Option<Registry>,
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
                // A reader finds a node silent before any script has put that down.
                self.registry.sweep().await.expect("the registry is there");
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

/// A request without demands that failed on every node alike.
pub(crate) fn same(reason: &str) -> SameEverywhere {
    SameEverywhere { reason: reason.to_owned(), demand: csr().demand }
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
