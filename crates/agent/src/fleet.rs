//! An agent without processes, ports and a gRPC service, for the benchmark of a large farm: its table and its relay are the real ones.
//!
//! Owns a task for the relay. Nothing that an agent promises of processes holds here.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use model::{Exit, ExitReason, RendererType, SpawnId, SpawnState};
use registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::disk::Disk;
use crate::logs::{Bounds, Logs};
use crate::node::Node;
use crate::relay::Relay;
use crate::state::StateDir;
use crate::table::Liveliness;
use crate::table::entrance::{Admission, Needs, SpawnSpec};

/// The threads for the disk, which all agents of a process share.
#[derive(Debug, Clone)]
pub struct Threads(Disk);

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    /// The machine gives no threads.
    pub fn new() -> std::io::Result<Self> {
        Disk::new().map(Self)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct FleetAgent {
    node: Arc<Node>,
    relay: JoinHandle<()>,
}

impl FleetAgent {
    /// Starts one, which reports to this registry until it is dropped.
    ///
    /// # Errors
    /// What keeps an agent from starting.
    pub fn start(config: Config, threads: &Threads, registry: Registry) -> Result<Self, String> {
        let Threads(disk) = threads.clone();
        let state = StateDir::open(&config.state_dir, disk.state.clone()).map_err(|e| format!("{e:?}"))?;
        let logs = Logs::open(state.logs().to_owned(), &Default::default(), Bounds::of(config.keep_ended));
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let node = Node::new(config, disk, state, logs, None, nowhere, nowhere).map_err(|e| e.to_string())?;
        let node = Arc::new(node);
        let relay = tokio::spawn(Relay::new(Arc::clone(&node), registry).run(CancellationToken::new()));
        Ok(Self { node, relay })
    }

    /// Admits a spawn, which is ready at once. Whether it was let in.
    #[must_use]
    pub fn spawn(&self, id: SpawnId) -> bool {
        let now = Instant::now();
        let spec = SpawnSpec {
            id,
            renderer: RendererType::Csr,
            labels: Default::default(),
            tags: Default::default(),
            owner: None,
            origin: Default::default(),
            endpoint_form: None,
            max_life: None,
            max_idle: None,
        };
        let mut table = self.node.table();
        if !matches!(table.admit_with(spec, Needs::default(), now), Admission::New(..)) {
            return false;
        }
        table.launched(id, 1, now);
        table.heard(id, Liveliness::Ready, now);
        table.enter(id, SpawnState::Ready, now);
        true
    }

    /// Ends one of its spawns. Returns when the registry has accepted that; `false` when there is none.
    pub async fn end_one(&self) -> bool {
        let accepted = {
            let mut table = self.node.table();
            let Some(id) = table.snapshots().map(|spawn| spawn.facts.id).next() else { return false };
            let exit = Exit { reason: ExitReason::Stopped, code: None, signal: None, text: None };
            let serial = table.exited(id, exit, Instant::now());
            table.wait_for_change(serial)
        };
        if let Some(accepted) = accepted {
            accepted.await.ok();
        }
        true
    }

    /// All its spawns report that they are alive.
    pub fn ping(&self) {
        let mut table = self.node.table();
        let all: Vec<SpawnId> = table.snapshots().map(|spawn| spawn.facts.id).collect();
        for id in all {
            table.heard(id, Liveliness::Ping, Instant::now());
        }
    }

    /// How many spawns it has.
    #[must_use]
    pub fn running(&self) -> usize {
        self.node.table().running()
    }

    /// How often it had to send its whole list.
    #[must_use]
    pub fn lists_sent(&self) -> u64 {
        self.node.metrics.lists_sent()
    }
}

impl Drop for FleetAgent {
    fn drop(&mut self) {
        self.relay.abort();
    }
}
