//! Somebody with Redis' password who says to be a node's agent: it reports for the node, with an address of its choice.

use std::time::Duration;

use model::{AgentEpoch, NodeDescription, NodeId, NodeKind, Timing};
use registry::{AgentIdentity, AgentReport, Heartbeat, Registry};
use tokio::time::sleep;
use uuid::Uuid;

/// Between two of its heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// See the module's documentation.
#[derive(Debug)]
pub struct Impostor {
    registry: Registry,
    node: NodeId,
    epoch: AgentEpoch,
    identity: AgentIdentity,
    description: NodeDescription,
    /// Whether its next report is its first that counts.
    takeover: bool,
}

impl Impostor {
    /// One that has not said anything yet. Front doors are to call this address.
    pub fn new(url: &str, node: &str, advertise: &str) -> Self {
        Self {
            registry: Registry::open(url, "test", Timing::FARM).expect("a good URL"),
            node: node.parse().expect("a good name"),
            epoch: AgentEpoch::mint(),
            identity: AgentIdentity { instance: Uuid::new_v4(), life: 1 },
            description: NodeDescription {
                advertise: advertise.to_owned(),
                endpoint: "ws://127.0.0.1:{port}".to_owned(),
                kind: NodeKind { pool: "default".to_owned(), labels: Default::default(), dedicated: false },
                slots: 10,
                gpus: 0,
                gpu_slots: 0,
                csr: true,
                ssr: true,
                version: "0.1.0".to_owned(),
                viewer_relay: None,
            },
            takeover: true,
        }
    }

    /// Reports once; whether the registry takes it for the node's agent.
    pub async fn claims(&mut self) -> bool {
        let report = AgentReport {
            node: self.node.clone(),
            epoch: self.epoch,
            takeover: self.takeover,
            identity: self.identity,
            accepted: 0,
            agreement: None,
            changes: Vec::new(),
            heartbeat: Some(Heartbeat::new(self.description.clone(), Vec::new())),
        };
        let orders = self.registry.report(&report).await.expect("the registry is there");
        let believed = orders.taken.is_none() && !orders.superseded && !orders.unknown;
        self.takeover &= !believed;
        believed
    }

    /// Goes on reporting until the task is aborted.
    pub async fn keep(mut self) {
        loop {
            self.claims().await;
            sleep(HEARTBEAT).await;
        }
    }
}
