//! What all tasks of an agent share, by reference.
//!
//! Each part has one owner: the table its own lock ([`Node::table`], never held across an await), the state directory the state lane of the disk,
//! and so on. The flags are hints between tasks and guard nothing.
//!
//! The desired state is written by one thread. `desired_unsaved` is set before a write is asked for and cleared before the table is read, so a
//! change that comes in between is written again, and the last one stays.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{AgentEpoch, NodeDescription, NodeKind, SpawnId};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{default_advertise, host_of, in_a_url, reachable};
use crate::config::{Config, ConfigError, Launcher};
use crate::disk::Disk;
use crate::endpoint::EndpointForm;
use crate::logs::Logs;
use crate::looks::Looks;
use crate::metrics::Metrics;
use crate::port_conflicts::PortConflicts;
use crate::relay_state::RelayState;
use crate::spawn::args::Fixed;
use crate::spawn::cgroup::Groups;
use crate::spawn::leftovers::Leftovers;
use crate::spawn::lifecycle::Rules;
use crate::spawn::output;
use crate::start_gate::StartGate;
use crate::state::StateDir;
use crate::table::Table;

/// How long the end of a spawn waits for what it wrote last.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an order of an operator waits for the disk.
const DESIRED_TIMEOUT: Duration = Duration::from_secs(1);

/// Shared by reference; only [`Node::table`] has a lock, and that is never held across an await.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) epoch: AgentEpoch,
    pub(crate) description: NodeDescription,
    /// The node's host in endpoints, as it stands in a URL.
    pub(crate) host: String,
    pub(crate) rules: Rules,
    pub(crate) fixed_args: Fixed,
    /// Of the settings that shape its servers. Empty until the executable was looked at, see `preflight::fingerprint`.
    pub(crate) fingerprint: String,
    pub(crate) metrics: Metrics,
    /// Processes that were found on ports that are not theirs.
    pub(crate) port_conflicts: PortConflicts,
    pub(crate) state: StateDir,
    /// Everything that touches a disk runs here.
    pub(crate) disk: Disk,
    /// For what is to be done on the runtime and comes about on the disk's threads.
    pub(crate) runtime: Handle,
    /// Whether the desired state on the disk may be older than that in the table.
    pub(crate) desired_unsaved: AtomicBool,
    /// Whether the registry has answered this agent. Until then an order that the last agent followed, and could not write down, is not known here.
    pub(crate) orders_heard: AtomicBool,
    pub(crate) logs: Logs,
    /// Lets so many servers start at once.
    pub(crate) starts: StartGate,
    /// What ended spawns leave behind where they have no control groups.
    pub(crate) leftovers: Leftovers,
    /// Where spawns get control groups, if they do.
    pub(crate) groups: Option<Groups>,
    /// The drivers of all spawns.
    pub(crate) drivers: TaskTracker,
    /// Set when drivers must leave their processes running.
    pub(crate) leaving: CancellationToken,
    /// Set when this agent cannot go on: another one has taken the node over, or a part of it has failed.
    pub(crate) closed: CancellationToken,
    /// Whether the registry accepted the last report.
    pub(crate) registry_up: AtomicBool,
    pub(crate) table: Mutex<Table>,
    /// Looks at who is connected.
    pub(crate) looks: Looks,
    /// Whether the relay of this node answers.
    pub(crate) viewer_relay: RelayState,
}

impl Node {
    /// What a starting agent shares. The desired state that an earlier agent stored is taken up.
    ///
    /// # Errors
    /// `--advertise` has no host.
    pub(crate) fn new(
        config: Config,
        disk: Disk,
        state: StateDir,
        logs: Logs,
        groups: Option<Groups>,
        grpc_addr: SocketAddr,
        liveliness_addr: SocketAddr,
    ) -> Result<Self, ConfigError> {
        let advertise = config
            .advertise
            .clone()
            .unwrap_or_else(|| default_advertise(grpc_addr, config.tls.grpc.is_some()));
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
            viewer_relay: config.viewer_relay.clone(),
        };
        let ping_interval = match config.launcher {
            Launcher::Executable(_) | Launcher::Simulated(_) => Some(config.ping_interval),
            Launcher::Nothing => None,
        };
        let fixed_args = Fixed::new(&config, format!("http://{}", reachable(liveliness_addr)));
        let mut table = Table::new(&config, endpoint);
        if let Some(desired) = state.stored_desired() {
            tracing::info!(eligibility = %desired.eligibility, "the operator's desired state is remembered");
            table.recall(desired);
        }
        Ok(Self {
            epoch: AgentEpoch::mint(),
            description,
            host,
            rules: Rules { ping_interval, stop_grace: config.stop_grace },
            fingerprint: String::new(),
            fixed_args,
            metrics: Metrics::new(config.slots),
            port_conflicts: PortConflicts::default(),
            logs,
            groups,
            leftovers: match config.launcher {
                // Its processes are not this machine's.
                Launcher::Simulated(_) => Leftovers::none(),
                _ => Leftovers::new(state.logs().to_owned(), disk.logs.clone()),
            },
            disk,
            runtime: Handle::current(),
            desired_unsaved: AtomicBool::new(false),
            orders_heard: AtomicBool::new(false),
            drivers: TaskTracker::new(),
            leaving: CancellationToken::new(),
            closed: CancellationToken::new(),
            registry_up: AtomicBool::new(false),
            table: Mutex::new(table),
            // Where nothing is started, nothing has to wait for it.
            starts: StartGate::new(match config.launcher {
                Launcher::Executable(_) | Launcher::Simulated(_) => config.starts,
                Launcher::Nothing => u32::MAX,
            }),
            looks: Looks::new(),
            viewer_relay: RelayState::default(),
            state,
            config,
        })
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        // A section that panicked may have left a spawn half done, which is better than no agent at all.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request that a spawn comes from, for the log. Takes the table's lock.
    pub(crate) fn request_of(&self, id: SpawnId) -> Option<String> {
        let facts = self.table().facts(id, Instant::now())?;
        Some(facts.origin.request_id.as_ref()?.to_string())
    }

    /// Whether there is as much free memory as a start takes (`--min-free-memory`).
    pub(crate) fn has_memory(&self) -> bool {
        let floor = self.config.min_free_memory;
        floor == 0 || machine::memory::free().is_none_or(|free| free >= floor)
    }

    pub(crate) fn registry_up(&self) -> bool {
        self.registry_up.load(Ordering::Relaxed)
    }

    /// The last lines a spawn wrote; none when the disk does not answer in time.
    pub(crate) async fn last_words(self: &Arc<Self>, id: SpawnId) -> Vec<String> {
        let path = output::path(self.state.logs(), id);
        self.disk.logs.call(LAST_LINES_TIMEOUT, move || output::last_words(&path)).await.unwrap_or_else(
            |error| {
                tracing::warn!(%error, spawn.id = %id, requestId = self.request_of(id), "failed to read the last lines of a spawn");
                Vec::new()
            },
        )
    }

    /// Deletes the log of a spawn that has ended, in a while.
    pub(crate) fn retire_log(self: &Arc<Self>, id: SpawnId) {
        self.logs.retire(id, Instant::now());
        self.sweep_logs();
    }

    /// Deletes logs that are too old or too many. What a disk that hangs keeps from being deleted now is deleted later.
    pub(crate) fn sweep_logs(self: &Arc<Self>) {
        if self.logs.has_old(Instant::now()) {
            let node = Arc::clone(self);
            self.disk.logs.post(move || node.logs.sweep(Instant::now())).ok();
        }
    }

    /// Writes the desired state, and waits until the disk has it, at most for [`DESIRED_TIMEOUT`].
    pub(crate) async fn store_desired(self: &Arc<Self>) {
        self.desired_unsaved.store(true, Ordering::Release);
        let node = Arc::clone(self);
        if let Err(error) = self.disk.state.call(DESIRED_TIMEOUT, move || node.write_desired()).await {
            tracing::warn!(%error, "the desired state of the node is not on the disk yet");
        }
    }

    /// Writes the desired state if the disk does not have it; nothing waits for it.
    pub(crate) fn store_desired_soon(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.disk.state.post(move || node.write_desired()).ok();
    }

    // Runs on the one thread of the state lane, so writes keep their order.
    fn write_desired(&self) {
        if !self.desired_unsaved.swap(false, Ordering::AcqRel) {
            return;
        }
        let desired = self.table().desired().clone();
        if let Err(error) = self.state.store_desired(&desired) {
            self.desired_unsaved.store(true, Ordering::Release);
            tracing::warn!(%error, "failed to write the desired state of the node");
        }
    }
}
