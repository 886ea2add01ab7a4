//! An agent on a simulated machine and network: everything is the real agent but for listeners, sockets and what [`crate::simulated`] lists.
//!
//! Owns what [`crate::Agent`] owns. It has no admin port, and does not look for viewers whom no relay reports.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use model::{AgentEpoch, SpawnId};
use registry::Registry;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use wire::v1::node_agent_server::NodeAgentServer;

use crate::config::{Config, Launcher, OnShutdown};
use crate::disk::Disk;
use crate::grpc::Service;
use crate::life::{self, Agent};
use crate::liveliness;
use crate::logs::{Bounds, Logs};
use crate::node::Node;
use crate::relay::Relay;
use crate::simulated::SimulatedMachine;
use crate::state::{Clock, StateDir};
use crate::task::{Task, report_end};
use crate::{adoption, drain, housekeeping, preflight, warm};

/// See the module's documentation.
#[derive(Debug)]
pub struct SimulatedAgent {
    agent: Agent,
}

impl SimulatedAgent {
    /// Starts an agent whose launcher is [`Launcher::Simulated`]. Front doors connect through `connections`.
    ///
    /// # Errors
    /// What keeps an agent from starting.
    pub async fn start(
        config: Config,
        registry: Registry,
        connections: mpsc::Receiver<DuplexStream>,
    ) -> Result<Self, String> {
        config.check().map_err(|error| error.to_string())?;
        let Launcher::Simulated(SimulatedMachine(machine)) = &config.launcher else {
            return Err("the launcher is not a simulated machine".to_owned());
        };
        let (disk, clock) = (Disk::simulated(machine), Clock::simulated(Arc::clone(machine)));
        let state = StateDir::open_by(clock, &config.state_dir, disk.state.clone());
        let state = state.map_err(|unusable| format!("{unusable:?}"))?;
        let survey =
            adoption::survey::take(&state, &config, &disk).await.map_err(|error| error.to_string())?;
        let logs = Logs::open(state.logs().to_owned(), &survey.living(), Bounds::of(config.keep_ended));
        let (grpc, receiver): (SocketAddr, SocketAddr) = (config.listen, config.liveliness_listen);
        let mut node =
            Node::new(config, disk, state, logs, None, grpc, receiver).map_err(|e| e.to_string())?;
        node.fingerprint = preflight::fingerprint(&node.config, &node.fixed_args, &node.disk).await;
        let node = Arc::new(node);
        let (drivers, keepers) = adoption::take_over(&node, survey);
        let relay = Relay::new(Arc::clone(&node), registry);
        adoption::run(&node, drivers);
        warm::run(&node, keepers);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<NodeAgentServer<Service>>().await;
        let routes = life::grpc_server()
            .add_service(NodeAgentServer::new(Service::new(Arc::clone(&node))))
            .add_service(health_service);
        let grpc_server = Task::start(&node, "grpc", |stop| async move {
            let incoming = ReceiverStream::new(connections).map(Ok::<_, io::Error>);
            report_end("grpc", routes.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await);
        });
        let servers = vec![
            grpc_server,
            Task::start(&node, "housekeeping", |stop| housekeeping::keep_house(Arc::clone(&node), stop)),
            Task::start(&node, "warm", |stop| warm::keep(Arc::clone(&node), stop)),
            Task::start(&node, "drain", |stop| drain::watch(Arc::clone(&node), stop)),
            Task::start(&node, "pulse", |stop| housekeeping::stay_awake(Arc::clone(&node), stop)),
        ];
        let relay = Task::start(&node, "relay", |stop| relay.run(stop));
        Ok(Self { agent: Agent::of_parts(node, health, relay, servers, (grpc, receiver, grpc)) })
    }

    /// A server reports: the target of its request to the liveliness receiver. Returns whether the report was taken in.
    #[must_use]
    pub fn report(&self, target: &str) -> bool {
        liveliness::take_in(&self.agent.node, target)
    }

    /// The epoch of this agent.
    #[must_use]
    pub fn epoch(&self) -> AgentEpoch {
        self.agent.epoch()
    }

    /// The spawns that it counts as running here.
    #[must_use]
    pub fn spawns(&self) -> BTreeSet<SpawnId> {
        self.agent.node.table().snapshots().map(|spawn| spawn.facts.id).collect()
    }

    /// Whether it has acknowledged that this spawn was stopped or abandoned, or has ended it.
    #[must_use]
    pub fn must_not_start(&self, id: SpawnId) -> bool {
        self.agent.node.table().must_not_start(id, Instant::now())
    }

    /// The servers that it keeps warm, by the ids that they were started with.
    #[must_use]
    pub fn kept_warm(&self) -> BTreeSet<SpawnId> {
        self.agent.node.table().warm_facts().map(|facts| facts.process_id()).collect()
    }

    /// Whether a part of it has failed, or another agent has the node.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.agent.node.closed.is_cancelled()
    }

    /// Ends it in good order and leaves what runs to the next agent.
    pub async fn shutdown(self: Arc<Self>) {
        // Reports that are under way hold it for a moment, without waiting for anything.
        match Arc::try_unwrap(self) {
            Ok(Self { agent }) => agent.shutdown(OnShutdown::Adopt, CancellationToken::new()).await,
            Err(shared) => shared.crash(),
        }
    }

    /// Ends it at once. Its connections, its calls to the registry and its disk are the simulation's to cut, before this is called.
    pub fn crash(&self) {
        let Agent { node, relay, servers, .. } = &self.agent;
        // That its tasks end is no failure of theirs.
        node.closed.cancel();
        node.leaving.cancel();
        relay.handle.abort();
        for server in servers {
            server.handle.abort();
        }
        node.state.release();
    }
}
