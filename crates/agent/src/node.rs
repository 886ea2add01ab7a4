//! What all tasks of an agent share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{AgentEpoch, NodeDescription, SpawnId};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::disk::Disk;
use crate::intruders::Intruders;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::spawn::args::Fixed;
use crate::spawn::cgroup::Groups;
use crate::spawn::leftovers::Leftovers;
use crate::spawn::lifecycle::Rules;
use crate::spawn::output;
use crate::state::StateDir;
use crate::table::Table;

/// How long the end of a spawn waits for what it wrote last.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an order of the operator waits for the disk.
const WISH_TIMEOUT: Duration = Duration::from_secs(1);

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
    pub(crate) metrics: Metrics,
    /// Who was found on ports of others.
    pub(crate) intruders: Intruders,
    pub(crate) state: StateDir,
    /// Everything that touches a disk runs here.
    pub(crate) disk: Disk,
    /// For what is to be done on the runtime and comes about on the disk's threads.
    pub(crate) runtime: Handle,
    /// Whether the desired state on the disk may be older than that in the table.
    pub(crate) wish_unkept: AtomicBool,
    pub(crate) logs: Logs,
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
}

impl Node {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        // A section that panicked may have left a spawn half done, which is better than no agent at all.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn registry_up(&self) -> bool {
        self.registry_up.load(Ordering::Relaxed)
    }

    /// The last lines a spawn wrote; none when the disk does not answer in time.
    pub(crate) async fn last_words(self: &Arc<Self>, id: SpawnId) -> Vec<String> {
        let path = output::path(self.state.logs(), id);
        self.disk.logs.call(LAST_WORDS_TIMEOUT, move || output::last_words(&path)).await.unwrap_or_else(
            |error| {
                tracing::warn!(%error, spawn.id = %id, "failed to read the last lines of a spawn");
                Vec::new()
            },
        )
    }

    /// Its spawn has ended: its log is deleted in a while.
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

    /// Has the desired state written, and waits for it to be on the disk, but not for long.
    pub(crate) async fn keep_wish(self: &Arc<Self>) {
        self.wish_unkept.store(true, Ordering::Release);
        let node = Arc::clone(self);
        if let Err(error) = self.disk.state.call(WISH_TIMEOUT, move || node.write_wish()).await {
            tracing::warn!(%error, "the desired state of the node is not on the disk yet");
        }
    }

    /// Has the desired state written if it is not on the disk; nothing waits for it.
    pub(crate) fn keep_wish_soon(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.disk.state.post(move || node.write_wish()).ok();
    }

    /// One thread writes, so the last one stays.
    fn write_wish(&self) {
        if !self.wish_unkept.swap(false, Ordering::AcqRel) {
            return;
        }
        let wish = self.table().wish().clone();
        if let Err(error) = self.state.keep_wish(&wish) {
            self.wish_unkept.store(true, Ordering::Release);
            tracing::warn!(%error, "failed to write the desired state of the node");
        }
    }
}
