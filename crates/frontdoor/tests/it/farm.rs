//! A registry, front doors and agents in one process, with milliseconds where a farm has seconds.

use std::net::SocketAddr;
use std::time::Duration;

use frontdoor::{Config, FrontDoor, Origins};
use model::{NodeId, Placement, Timing};
use registry::Registry;

use crate::fake_agent::{FakeAgent, Offer, Script};
use crate::wait::until;

pub(crate) const TIMING: Timing = Timing {
    stale: Duration::from_millis(600),
    down: Duration::from_secs(2),
    reservation: Duration::from_secs(60),
    claim: Duration::from_millis(500),
    place: Duration::from_millis(500),
    ..Timing::FARM
};

pub(crate) fn config() -> Config {
    Config {
        tracer: traces::Tracer::off(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        spawn_deadline: Duration::from_secs(20),
        placement: Placement::Spread,
        max_waiting: 100,
        origins: Origins::Any,
        hosts: access::Hosts::default(),
        trusted_proxies: frontdoor::TrustedProxies::default(),
        webhooks: None,
        shutdown_grace: Duration::from_secs(5),
        keep_ended: model::timing::KEEP_ENDED,
        live_ping_interval: Duration::from_secs(30),
        live_buffer: 16,
        lives: frontdoor::Lives::default(),
        viewers: frontdoor::ViewerSettings::default(),
        hoops: None,
        surface: frontdoor::Surface::Whole,
        access: None,
        max_connections: 1000,
        limits: frontdoor::Limits::default(),
        tls: frontdoor::Tls::default(),
        admin_public: false,
    }
}

pub(crate) struct Farm {
    pub(crate) registry: Registry,
    pub(crate) front: FrontDoor,
    pub(crate) http: SocketAddr,
    pub(crate) agents: Vec<FakeAgent>,
}

impl Farm {
    /// One front door, and an agent `node-0`, `node-1`, … for each script, with this many slots each.
    pub(crate) async fn start(slots: u32, scripts: &[Script]) -> Self {
        Self::with(config(), slots, scripts).await
    }

    pub(crate) async fn with(config: Config, slots: u32, scripts: &[Script]) -> Self {
        Self::over(Registry::embedded(TIMING), config, slots, scripts).await
    }

    /// With this registry.
    pub(crate) async fn over(registry: Registry, config: Config, slots: u32, scripts: &[Script]) -> Self {
        let front = FrontDoor::start(config, registry.clone()).await.unwrap();
        let mut farm = Self { http: front.http_addr(), registry, front, agents: Vec::new() };
        for script in scripts {
            farm.add(Offer { slots, labels: &[] }, script.clone()).await;
        }
        farm
    }

    pub(crate) async fn add(&mut self, offer: Offer, script: Script) -> &FakeAgent {
        let name = format!("node-{}", self.agents.len());
        self.agents.push(FakeAgent::start(&self.registry, &name, offer, script).await);
        self.agents.last().unwrap()
    }

    pub(crate) async fn another_front_door(&self) -> FrontDoor {
        FrontDoor::start(config(), self.registry.clone()).await.unwrap()
    }

    pub(crate) async fn used(&self, node: &NodeId) -> u32 {
        self.registry.node(node).await.unwrap().unwrap().used
    }

    /// Waits until no slot is taken anywhere.
    pub(crate) async fn empty(&self) {
        until(
            async || self.registry.nodes().await.unwrap().iter().map(|n| n.used).sum::<u32>(),
            |used| *used == 0,
        )
        .await;
    }

    /// All orders that all agents got.
    pub(crate) fn orders(&self) -> usize {
        self.agents.iter().map(|agent| agent.orders().len()).sum()
    }
}
