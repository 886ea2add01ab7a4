//! The start of an agent: everything is checked, the state directory is taken, what earlier agents left is looked at, every
//! port is bound, what they left is taken over, and only then is anybody served.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{AgentEpoch, NodeDescription, NodeId, NodeKind};
use registry::Registry;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;
use wire::v1::node_agent_server::NodeAgentServer;

use crate::config::{Config, ConfigError, Launcher, host_of};
use crate::disk::Disk;
use crate::endpoint::EndpointForm;
use crate::grpc::Service;
use crate::intruders::Intruders;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::options::host_name;
use crate::relay::Relay;
use crate::spawn::args::Fixed;
use crate::spawn::cgroup::Groups;
use crate::spawn::leftovers::Leftovers;
use crate::spawn::lifecycle::Rules;
use crate::state::{self, StateDir, Unusable};
use crate::table::{Door, Table};
use crate::task::Task;
use crate::{admin, adoption, doorway, drain, liveliness, log_limit, reaper, separation};

/// How often it is looked whether what could not be written can be.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often old logs are looked for, in rounds of housekeeping.
const SWEEP_EVERY: u32 = 30;
/// A front door that is gone without a word is noticed after this and [`KEEPALIVE_TIMEOUT`]; its calls count as hung up.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// Calls whose callers have left before the agent has seen them, on one connection. Beyond it the whole connection is closed, with
/// the calls of everybody else on it; a front door has one connection for all its callers, and an agent may stall.
const MAX_PENDING_RESETS: usize = 100_000;
/// Most connections of front doors at once; they have one each.
const MOST_FRONT_DOORS: usize = 4096;

/// Why an agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting will not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory cannot be used.
    #[error("failed to use {path} (--state-dir)")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The threads for the disk cannot be had.
    #[error("failed to start threads for the disk; raise the limit of processes")]
    Disk(#[source] io::Error),
    /// Ends of spawns could not be seen.
    #[error(
        "this machine refuses pidfd_open, without which an agent cannot see spawns end; \
         it takes Linux 5.4 or later, and a sandbox (seccomp) that allows the call"
    )]
    Pidfd(#[source] io::Error),
    /// Another agent uses the state directory.
    #[error(
        "another agent{} uses {path} (--state-dir); every agent needs a state directory of its own",
        pid.map(|pid| format!(", process {pid},")).unwrap_or_default()
    )]
    StateTaken {
        /// The directory.
        path: PathBuf,
        /// The other agent's process.
        pid: Option<u32>,
    },
    /// What earlier agents left cannot be looked at.
    #[error("failed to look for spawns of an earlier agent in {path} (--state-dir)")]
    Survey {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A port cannot be had.
    #[error("failed to listen on {addr} ({flag})")]
    Bind {
        /// The flag that asked for it.
        flag: &'static str,
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The reflection service does not understand the contract.
    #[error("failed to describe the gRPC service")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// Why an agent cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Another agent has taken the node over: what runs here has no other agent.
    Superseded,
    /// Another agent that is alive has the node, and this one never had it. The next agent can adopt what runs.
    Taken,
    /// A part of it has failed. The next agent can adopt what runs.
    Failed,
}

/// A running agent. Dropping it without [`Agent::shutdown`] leaves its tasks running.
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
        let state = open_state(&config, &disk)?;
        allow_files(config.slots.max(u32::try_from(state.journal.stories().len()).unwrap_or(u32::MAX)));
        let estate = adoption::survey(&state, &config)
            .map_err(|source| StartError::Survey { path: config.state_dir.clone(), source })?;
        let living = estate.living();
        may_change_user(&config)?;
        separation::check(&config)?;
        separation::close_files_of_spawns(&config);
        may_watch_processes()?;
        let groups = Groups::open(&config, &estate.pids())?;
        let logs = Logs::open(state.logs().to_owned(), &living);
        warn_of_missing(&config);
        separation::warn(&config);
        for flag in &config.tls.exposed {
            tracing::warn!(
                flag,
                "other machines can reach this port, and --insecure lets them: nothing keeps it"
            );
        }
        let tls = config.tls.clone();
        let receiver = bind("--liveliness-listen", config.liveliness_listen).await?;
        let grpc = bind("--listen", config.listen).await?;
        let watchers = bind("--admin-listen", config.admin_listen).await?;
        let addr = |listener: &TcpListener, wanted| listener.local_addr().unwrap_or(wanted);
        let grpc_addr = addr(&grpc, config.listen);
        let liveliness_addr = addr(&receiver, config.liveliness_listen);
        let admin_addr = addr(&watchers, config.admin_listen);

        let node = Arc::new(make_node(config, disk, state, logs, groups, grpc_addr, liveliness_addr)?);
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
        let adopted = adoption::take_over(&node, estate);
        if let Some(groups) = &node.groups {
            groups.sweep(true);
        }
        // It takes the table as it is now for what its changes begin with.
        let relay = Relay::new(Arc::clone(&node), registry.clone());
        adoption::run(&node, adopted);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<NodeAgentServer<Service>>().await;
        let routes = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_max_local_error_reset_streams(Some(MAX_PENDING_RESETS))
            .add_service(NodeAgentServer::new(Service::new(Arc::clone(&node))))
            .add_service(health_service)
            .add_service(reflection);
        let secure = tls.grpc.clone();
        let grpc_server = Task::start(&node, "grpc", |stop| async move {
            let served = match secure {
                None => {
                    let incoming = ReceiverStream::new(doorway::accept(grpc, stop.clone()));
                    routes
                        .serve_with_incoming_shutdown(
                            incoming.map(Ok::<_, io::Error>),
                            stop.cancelled_owned(),
                        )
                        .await
                }
                Some(server) => {
                    let visitors = doorway::open(grpc, server, MOST_FRONT_DOORS, stop.clone());
                    let incoming = ReceiverStream::new(visitors).map(Ok::<_, io::Error>);
                    routes.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await
                }
            };
            report_end("grpc", served);
        });
        let mut servers = vec![
            grpc_server,
            Task::start(&node, "liveliness", |stop| liveliness::receive(Arc::clone(&node), receiver, stop)),
            admin::serve(&node, watchers, tls.admin.clone(), registry.clone()),
            Task::start(&node, "housekeeping", |stop| keep_house(Arc::clone(&node), stop)),
            Task::start(&node, "log-limit", |stop| log_limit::keep(Arc::clone(&node), stop)),
            Task::start(&node, "drain", |stop| drain::watch(Arc::clone(&node), stop)),
            Task::start(&node, "pulse", |stop| stay_awake(Arc::clone(&node), stop)),
        ];
        for server in tls.grpc.into_iter().chain(tls.admin) {
            servers.push(Task::start(&node, "certificate", |stop| async move {
                stop.run_until_cancelled(server.keep_fresh()).await.unwrap_or_default()
            }));
        }
        let relay = Task::start(&node, "relay", |stop| relay.run(stop));
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

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node.config.node
    }

    /// This agent's life.
    #[must_use]
    pub fn epoch(&self) -> AgentEpoch {
        self.node.epoch
    }

    /// Waits until the agent cannot go on because another one has taken its node over, or because a part of it has
    /// failed. Usually for ever.
    pub async fn closed(&self) -> Closed {
        self.node.closed.cancelled().await;
        match self.node.table().door() {
            Door::Superseded => Closed::Superseded,
            Door::Taken => Closed::Taken,
            Door::Open | Door::ShuttingDown | Door::Emptying => Closed::Failed,
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

    /// Waits until nothing runs any more.
    pub async fn emptied(&self) {
        let bell = self.node.table().settled_bell();
        loop {
            let rung = bell.notified();
            if self.node.table().running() == 0 {
                return;
            }
            rung.await;
        }
    }

    /// Waits until an operator has drained the node and nothing is left on it.
    pub async fn drained(&self) {
        let bell = self.node.table().settled_bell();
        loop {
            let rung = bell.notified();
            if self.node.table().is_drained() {
                return;
            }
            rung.await;
        }
    }
}

fn open_state(config: &Config, disk: &Disk) -> Result<StateDir, StartError> {
    StateDir::open(&config.state_dir, disk.state.clone()).map_err(|unusable| match unusable {
        Unusable::Taken(pid) => StartError::StateTaken { path: config.state_dir.clone(), pid },
        Unusable::Broken(path, source) => StartError::StateDir { path, source },
    })
}

/// Without process descriptors the end of a spawn could not be seen. Some sandboxes refuse them.
fn may_watch_processes() -> Result<(), StartError> {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Ok(()),
        // Out of descriptors, for example: it is for what starts to say so.
        Err(error @ (Errno::NOSYS | Errno::PERM | Errno::ACCESS)) => Err(StartError::Pidfd(error.into())),
        Err(_) => Ok(()),
    }
}

/// Only root may start processes of others.
fn may_change_user(config: &Config) -> Result<(), ConfigError> {
    let user = rustix::process::geteuid();
    match &config.spawn_users {
        Some(wanted) if !user.is_root() => {
            let wants = format!(
                "needs the agent to run as root, to start spawns as {wanted}; it runs as user {}",
                user.as_raw()
            );
            Err(ConfigError::new("--spawn-user", wants))
        }
        Some(_) | None => Ok(()),
    }
}

/// Files may be on a share that comes later, so what is missing now is only told.
fn warn_of_missing(config: &Config) {
    let executable = match &config.launcher {
        Launcher::Executable(path) => Some(path),
        Launcher::Nothing => None,
    };
    let files = [("--executable", executable), ("--license-file", config.license_file.as_ref())];
    let dirs = config.model_dirs.iter().map(|dir| ("--model-dir", dir));
    for (flag, path) in files.into_iter().filter_map(|(flag, path)| Some((flag, path?))).chain(dirs) {
        if let Err(error) = std::fs::metadata(path) {
            tracing::warn!(%error, flag, path = %path.display(), "a file is missing, spawns will fail until it is there");
        }
        if let Some(why) = config.spawn_users.as_ref().and_then(|users| users.shut_out_of(path)) {
            tracing::warn!(why, flag, path = %path.display(), "spawns cannot read a file as --spawn-user");
        }
    }
}

/// Makes sure that there can be a process descriptor, and all connections that its receiver allows, for every slot.
fn allow_files(slots: u32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = u64::from(slots) * 6 + 512;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = limit.maximum.map_or(wanted, |most| most.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    if raised.is_err() || current < wanted {
        tracing::warn!(wanted, current, "the limit of open files is low for so many slots");
    }
}

async fn bind(flag: &'static str, addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|source| StartError::Bind { flag, addr, source })
}

pub(crate) fn make_node(
    config: Config,
    disk: Disk,
    state: StateDir,
    logs: Logs,
    groups: Option<Groups>,
    grpc_addr: SocketAddr,
    liveliness_addr: SocketAddr,
) -> Result<Node, ConfigError> {
    let advertise =
        config.advertise.clone().unwrap_or_else(|| default_advertise(grpc_addr, config.tls.grpc.is_some()));
    let host = match &config.public_host {
        Some(host) => in_a_url(host),
        None => host_of(&advertise).map_err(|why| ConfigError::new("--advertise", why))?,
    };
    let endpoint: EndpointForm = config.endpoint.on(&config.node, &host);
    let description = NodeDescription {
        advertise,
        endpoint: endpoint.to_string(),
        kind: NodeKind {
            pool: config.pool.clone(),
            labels: config.labels.clone(),
            dedicated: config.dedicated,
        },
        slots: config.slots,
        gpus: config.gpus,
        gpu_slots: config.gpu_slots,
        csr: config.csr,
        ssr: config.ssr,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let ping_interval = match config.launcher {
        Launcher::Executable(_) => Some(config.ping_interval),
        Launcher::Nothing => None,
    };
    let mut table = Table::new(&config, endpoint);
    if let Some(wish) = state.kept_wish() {
        tracing::info!(eligibility = %wish.eligibility, "the operator's wish is remembered");
        table.recall(wish);
    }
    Ok(Node {
        epoch: AgentEpoch::mint(),
        description,
        host,
        rules: Rules { ping_interval, stop_grace: config.stop_grace },
        fixed_args: Fixed::new(&config, format!("http://{}", reachable(liveliness_addr))),
        metrics: Metrics::new(config.slots),
        intruders: Intruders::default(),
        logs,
        groups,
        leftovers: Leftovers::new(state.logs().to_owned(), disk.logs.clone()),
        disk,
        runtime: Handle::current(),
        wish_unkept: AtomicBool::new(false),
        drivers: TaskTracker::new(),
        leaving: CancellationToken::new(),
        closed: CancellationToken::new(),
        registry_up: AtomicBool::new(false),
        table: Mutex::new(table),
        state,
        config,
    })
}

/// A host as it stands in a URL: addresses of IPv6 are in brackets there.
fn in_a_url(host: &str) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_owned(),
    }
}

fn default_advertise(addr: SocketAddr, secure: bool) -> String {
    let scheme = if secure { "https" } else { "http" };
    if addr.ip().is_unspecified() {
        format!("{scheme}://{}:{}", host_name(), addr.port())
    } else {
        format!("{scheme}://{addr}")
    }
}

/// The address under which this machine reaches a listener of its own.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => addr,
    }
}

pub(crate) fn report_end<E: std::fmt::Display>(name: &'static str, served: Result<(), E>) {
    if let Err(error) = served {
        tracing::error!(%error, name, "a server has ended");
    }
}

/// Sees to it that it is noticed when the whole agent did not run for a while.
async fn stay_awake(node: Arc<Node>, stop: CancellationToken) {
    let every = (node.table().stall() / 4).max(Duration::from_millis(10));
    loop {
        node.table().awake(Instant::now());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// What is to be done now and then; all of it on the disk's threads.
async fn keep_house(node: Arc<Node>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in (0..SWEEP_EVERY).cycle() {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        node.state.journal.check();
        node.leftovers.check();
        if node.config.inherit_orphans {
            node.disk.logs.post(reaper::reap_strangers).ok();
        }
        if node.wish_unkept.load(Ordering::Acquire) {
            node.keep_wish_soon();
        }
        if round == 0 {
            node.sweep_logs();
            if let Some(groups) = node.groups.clone() {
                node.disk.logs.post(move || groups.sweep(false)).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_stands_in_brackets_in_a_url() {
        for (host, want) in [
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("fd00::7", "[fd00::7]"),
            ("10.0.0.7", "10.0.0.7"),
            ("node-a.example", "node-a.example"),
        ] {
            assert_eq!(in_a_url(host), want);
        }
    }
}
