//! A node that exists in the registry only: it reports as an agent does, of spawns that never were. For events in numbers
//! that no machine could start processes for.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{AgentEpoch, Exit, ExitReason, NodeDescription, NodeId, NodeKind, SpawnId, SpawnState, Timing};
use registry::{AgentReport, Change, Heartbeat, Registry, SpawnReport};

/// See the module's documentation.
#[derive(Debug)]
pub struct Phantom {
    registry: Registry,
    node: NodeId,
    epoch: AgentEpoch,
    serial: u64,
    labels: BTreeMap<String, String>,
}

impl Phantom {
    /// A node that offers nothing, so that no spawn goes there.
    pub async fn start(url: &str, node: &str) -> Self {
        let registry = Registry::open(url, "test", Timing::FARM).expect("a good URL");
        let node = node.parse().expect("a good name");
        let mut phantom =
            Self { registry, node, epoch: AgentEpoch::mint(), serial: 0, labels: BTreeMap::new() };
        let description = NodeDescription {
            advertise: "http://127.0.0.1:9".to_owned(),
            endpoint: "ws://127.0.0.1:{port}".to_owned(),
            kind: NodeKind { pool: "phantom".to_owned(), labels: BTreeMap::new(), dedicated: false },
            slots: 0,
            gpus: 0,
            gpu_slots: 0,
            csr: false,
            ssr: false,
            version: "0.1.0".to_owned(),
            viewer_relay: None,
        };
        phantom.report(Vec::new(), Some(Heartbeat::new(description, Vec::new()))).await;
        phantom
    }

    /// With events of about this many bytes.
    #[must_use]
    pub fn wordy(mut self, bytes: usize) -> Self {
        self.labels.insert("words".to_owned(), "x".repeat(bytes));
        self
    }

    async fn report(&mut self, changes: Vec<Change>, heartbeat: Option<Heartbeat>) {
        let (node, epoch, takeover) = (self.node.clone(), self.epoch, heartbeat.is_some());
        let report = AgentReport {
            node,
            epoch,
            takeover,
            identity: registry::AgentIdentity::default(),
            accepted: 0,
            agreement: None,
            changes,
            heartbeat,
        };
        let orders = self.registry.report(&report).await.expect("the registry is there");
        assert!(!orders.unknown && !orders.superseded, "{orders:?}");
    }

    /// Tells of so many spawns that are admitted, and stay.
    pub async fn hold(&mut self, spawns: usize) {
        let mut changes = Vec::with_capacity(spawns);
        for _ in 0..spawns {
            self.serial += 1;
            let launching = SpawnReport::launching(SpawnId::mint(), "ws://127.0.0.1:9");
            let spawn = SpawnReport { labels: self.labels.clone(), ..launching };
            changes.push(Change { serial: self.serial, spawn, age: Duration::ZERO });
        }
        self.report(changes, None).await;
    }

    /// Tells of so many spawns that are admitted and end at once: two events each, all of them in one step.
    pub async fn tell(&mut self, spawns: usize) {
        let mut changes = Vec::with_capacity(spawns * 2);
        for _ in 0..spawns {
            let id = SpawnId::mint();
            for state in [SpawnState::Launching, SpawnState::Exited] {
                self.serial += 1;
                let exit = Exit { reason: ExitReason::Stopped, code: None, signal: None, text: None };
                let ended = state == SpawnState::Exited;
                let spawn = SpawnReport {
                    state,
                    labels: self.labels.clone(),
                    ended: ended.then_some(Duration::ZERO),
                    exit: ended.then_some(exit),
                    ..SpawnReport::launching(id, "ws://127.0.0.1:9")
                };
                changes.push(Change { serial: self.serial, spawn, age: Duration::ZERO });
            }
        }
        self.report(changes, None).await;
    }
}
