//! The life of an agent: its start, and what the program that runs it can ask.
//!
//! ```text
//! start: check ─▶ lock the state directory ─▶ survey (changes nothing) ─▶ bind all ports ─▶ adopt ─▶ serve
//!                     │ each step can fail: nothing was changed, no spawn is hurt
//! running ──▶ closed: superseded · taken · failed          shutdown (see `shutdown`) ─▶ adopt · drain · kill
//! ```
//!
//! Files that spawns need (executable, licence, models) may be on a share that hangs: each look at one has a deadline, and none decides
//! whether the agent starts. What runs must not wait for them.
//!
//! The order matters. Ports are bound before spawns are adopted, so that an agent that cannot serve adopts nothing. Spawns are adopted before
//! anything is served, so that no caller meets a table without them. The relay takes its first snapshot of the table after that, and the
//! adopted spawns' tasks run last: every change they make comes after that snapshot.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{AgentEpoch, NodeId};
use registry::Registry;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::server::HealthReporter;
use wire::v1::node_agent_server::NodeAgentServer;

use crate::address::host_of;
use crate::config::{Config, ConfigError};
use crate::disk::Disk;
use crate::grpc::Service;
use crate::logs::{Bounds, Logs};
use crate::node::Node;
use crate::relay::Relay;
use crate::spawn::cgroup::{Groups, Sweep};
use crate::spawn::limits;
use crate::start_error::StartError;
use crate::state;
use crate::table::AdmissionMode;
use crate::task::{Task, report_end};
use crate::{
    accept, admin, adoption, drain, housekeeping, liveliness, log_limit, own_ports, preflight, reaper,
    relay_watch, separation, viewer_watch, warm,
};

/// A front door that is gone without a word is noticed after this and [`KEEPALIVE_TIMEOUT`]; its calls count as hung up.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// Calls whose callers have left before the agent has seen them, on one connection. Beyond it the whole connection is closed, with
/// the calls of everybody else on it; a front door has one connection for all its callers, and an agent may stall.
const MAX_PENDING_RESETS: usize = 100_000;
/// Connections of front doors at once; they have one each.
const MAX_FRONT_DOORS: usize = 4096;

/// Why an agent cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Another agent has taken the node over: what runs here has no other agent.
    Superseded,
    /// Another agent that is alive has the node, and this one never had it. The next agent can adopt what runs.
    Taken,
    /// One of its tasks has failed. The next agent can adopt what runs.
    Failed,
}

/// A running agent. Dropping it without [`Agent::shutdown`] leaves its tasks running.
///
/// ```
/// use agent::{Agent, Config, OnShutdown, StartError};
/// use registry::Registry;
/// use tokio_util::sync::CancellationToken;
///
/// async fn supervise(config: Config, registry: Registry, enough: impl Future<Output = ()>) -> Result<(), StartError> {
///     let agent = Agent::start(config, registry).await?;
///     println!("front doors reach it at {}", agent.advertise());
///     enough.await;
///     // What runs is ended in good order; cancelling the token hurries it.
///     agent.shutdown(OnShutdown::Kill, CancellationToken::new()).await;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Agent {
    pub(crate) node: Arc<Node>,
    pub(crate) health: HealthReporter,
    pub(crate) relay: Task,
    pub(crate) servers: Vec<Task>,
    grpc_addr: SocketAddr,
    liveliness_addr: SocketAddr,
    admin_addr: SocketAddr,
}

impl Agent {
    /// Starts an agent. When this returns, all its ports are bound and it takes calls.
    ///
    /// # Errors
    /// A setting will not do, a port or the state directory cannot be had.
    pub async fn start(config: Config, registry: Registry) -> Result<Self, StartError> {
        config.check()?;
        if config.inherit_orphans {
            reaper::inherit_orphans();
        }
        let disk = Disk::new().map_err(StartError::Disk)?;
        state::ownership::check(&config.state_dir, config.spawn_users.as_ref())
            .map_err(|why| ConfigError::new("--state-dir", why))?;
        let state = preflight::open_state(&config, &disk)?;
        // Also where the limit is the agent's own (`LimitFSIZE=`).
        limits::survive_large_writes();
        preflight::allow_files(
            config.slots.max(u32::try_from(state.journal.histories().len()).unwrap_or(u32::MAX)),
        );
        let survey = adoption::survey::take(&state, &config, &disk)
            .await
            .map_err(|source| StartError::Survey { path: config.state_dir.clone(), source })?;
        let living = survey.living();
        preflight::may_change_user(&config)?;
        separation::check(&config)?;
        separation::keep_spawns_to_themselves(&config);
        preflight::may_watch_processes()?;
        let groups = Groups::open(&config, &survey.pids())?;
        let logs = Logs::open(state.logs().to_owned(), &living, Bounds::of(config.keep_ended));
        separation::warn(&config);
        for flag in &config.tls.exposed {
            tracing::warn!(
                flag,
                "other machines can reach this port, and --insecure lets them: nothing keeps it"
            );
        }
        let tls = config.tls.clone();
        let users = config.spawn_users.as_ref();
        let receiver = own_ports::bind("--liveliness-listen", config.liveliness_listen, users, &disk).await?;
        let grpc = own_ports::bind("--listen", config.listen, users, &disk).await?;
        let watchers = own_ports::bind("--admin-listen", config.admin_listen, users, &disk).await?;
        let addr = |listener: &TcpListener, wanted| listener.local_addr().unwrap_or(wanted);
        let grpc_addr = addr(&grpc, config.listen);
        let liveliness_addr = addr(&receiver, config.liveliness_listen);
        let admin_addr = addr(&watchers, config.admin_listen);

        let mut node = Node::new(config, disk, state, logs, groups, grpc_addr, liveliness_addr)?;
        node.fingerprint = preflight::fingerprint(&node.config, &node.fixed_args, &node.disk).await;
        let node = Arc::new(node);
        if let (Some(server), Ok(host)) = (&tls.grpc, host_of(&node.description.advertise))
            && !server.is_for(&host)
        {
            let advertise = &node.description.advertise;
            tracing::warn!(
                advertise,
                "the certificate is not for this host, front doors will refuse this agent"
            );
        }
        if let Some(server) = &tls.grpc {
            server.warn_without_role();
        }
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTOR)
            .build_v1()
            .map_err(StartError::Reflection)?;
        let adopted = adoption::take_over(&node, survey);
        if let Some(groups) = &node.groups {
            groups.sweep(Sweep::All);
        }
        // It takes its snapshot of the table before the adopted spawns make changes.
        let relay = Relay::new(Arc::clone(&node), registry.clone());
        let (drivers, keepers) = adopted;
        adoption::run(&node, drivers);
        warm::run(&node, keepers);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<NodeAgentServer<Service>>().await;
        let routes = grpc_server()
            .add_service(NodeAgentServer::new(Service::new(Arc::clone(&node))))
            .add_service(health_service)
            .add_service(reflection);
        let secure = tls.grpc.clone();
        let grpc_server = Task::start(&node, "grpc", |stop| async move {
            let served = match secure {
                None => {
                    let incoming =
                        ReceiverStream::new(accept::plain("grpc", grpc, MAX_FRONT_DOORS, stop.clone()));
                    routes
                        .serve_with_incoming_shutdown(
                            incoming.map(Ok::<_, io::Error>),
                            stop.cancelled_owned(),
                        )
                        .await
                }
                Some(server) => {
                    let connections = accept::tls(grpc, server, MAX_FRONT_DOORS, stop.clone());
                    let incoming = ReceiverStream::new(connections).map(Ok::<_, io::Error>);
                    routes.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await
                }
            };
            report_end("grpc", served);
        });
        let mut servers = vec![
            grpc_server,
            Task::start(&node, "liveliness", |stop| liveliness::receive(Arc::clone(&node), receiver, stop)),
            admin::serve(&node, watchers, tls.admin.clone(), registry.clone()),
            Task::start(&node, "housekeeping", |stop| housekeeping::keep_house(Arc::clone(&node), stop)),
            Task::start(&node, "log-limit", |stop| log_limit::keep(Arc::clone(&node), stop)),
            Task::start(&node, "viewers", |stop| viewer_watch::watch(Arc::clone(&node), stop)),
            Task::start(&node, "viewer-relay", |stop| relay_watch::watch(Arc::clone(&node), stop)),
            Task::start(&node, "warm", |stop| warm::keep(Arc::clone(&node), stop)),
            Task::start(&node, "drain", |stop| drain::watch(Arc::clone(&node), stop)),
            Task::start(&node, "pulse", |stop| housekeeping::stay_awake(Arc::clone(&node), stop)),
        ];
        if let Some(keys) = node.config.metrics_keys.clone() {
            servers.push(Task::start(&node, "metrics-keys", |stop| async move {
                stop.run_until_cancelled(keys.keep()).await.unwrap_or_default()
            }));
        }
        for server in tls.grpc.into_iter().chain(tls.admin) {
            servers.push(Task::start(&node, "certificate", |stop| async move {
                stop.run_until_cancelled(server.keep_fresh()).await.unwrap_or_default()
            }));
        }
        let relay = Task::start(&node, "relay", |stop| relay.run(stop));
        preflight::warn_of_missing(&node.config, &node.disk);
        tracing::info!(
            node.id = %node.config.node,
            epoch = %node.epoch,
            grpc = %grpc_addr,
            liveliness = %liveliness_addr,
            admin = %admin_addr,
            advertise = node.description.advertise,
            endpoint = node.description.endpoint,
            "agent started"
        );
        Ok(Self { node, health, relay, servers, grpc_addr, liveliness_addr, admin_addr })
    }

    /// An agent of these parts; the addresses of its gRPC service, its liveliness receiver and its admin port.
    pub(crate) fn of_parts(
        node: Arc<Node>,
        health: HealthReporter,
        relay: Task,
        servers: Vec<Task>,
        (grpc_addr, liveliness_addr, admin_addr): (SocketAddr, SocketAddr, SocketAddr),
    ) -> Self {
        Self { node, health, relay, servers, grpc_addr, liveliness_addr, admin_addr }
    }

    /// Where the gRPC service listens.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where spawned servers report.
    #[must_use]
    pub fn liveliness_addr(&self) -> SocketAddr {
        self.liveliness_addr
    }

    /// Where health and metrics are served.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The name of the node, as `--node` or the host name gave it.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node.config.node
    }

    /// The epoch of this agent, new with every start.
    #[must_use]
    pub fn epoch(&self) -> AgentEpoch {
        self.node.epoch
    }

    /// Resolves when the agent cannot go on: another one has taken its node over, or a task of it has failed.
    pub async fn closed(&self) -> Closed {
        self.node.closed.cancelled().await;
        match self.node.table().admission_mode() {
            AdmissionMode::Superseded => Closed::Superseded,
            AdmissionMode::Taken => Closed::Taken,
            AdmissionMode::Open | AdmissionMode::ShuttingDown | AdmissionMode::Emptying => Closed::Failed,
        }
    }

    /// The URL by which others reach this agent.
    #[must_use]
    pub fn advertise(&self) -> &str {
        &self.node.description.advertise
    }

    /// The address of the agent that has the node instead of this one.
    #[must_use]
    pub fn other_agent(&self) -> Option<String> {
        self.node.table().other_agent().map(str::to_owned)
    }

    /// What `/readyz` says now, in a few words, with what runs here.
    ///
    /// # Errors
    /// No spawn is admitted.
    pub fn readiness(&self) -> Result<String, String> {
        admin::admission(&self.node)?;
        let table = self.node.table();
        let (eligibility, running, slots) = (table.eligibility(), table.running(), table.slots());
        drop(table);
        let registry = if self.node.registry_up() { "" } else { ", the registry is away" };
        Ok(format!("{eligibility}, {running} of {slots} slots in use{registry}"))
    }

    /// Waits until nothing runs any more.
    pub async fn emptied(&self) {
        let settled = self.node.table().settled();
        loop {
            let settling = settled.notified();
            let is_empty = {
                let table = self.node.table();
                table.running() == 0 && table.warm_servers() == 0
            };
            if is_empty {
                return;
            }
            settling.await;
        }
    }

    /// Waits until an operator has drained the node and nothing is left on it.
    pub async fn drained(&self) {
        let settled = self.node.table().settled();
        loop {
            let settling = settled.notified();
            if self.node.table().is_drained() {
                return;
            }
            settling.await;
        }
    }
}

/// What serves front doors, without its services.
pub(crate) fn grpc_server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_PENDING_RESETS))
}
