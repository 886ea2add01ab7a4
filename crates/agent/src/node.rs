//! What all tasks of an agent share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{AgentEpoch, NodeDescription, SpawnId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::spawn::args::Fixed;
use crate::spawn::cgroup::Groups;
use crate::spawn::lifecycle::Rules;
use crate::spawn::output;
use crate::state::StateDir;
use crate::table::Table;

/// Shared by reference; only [`Node::table`] has a lock, and that is never held across an await.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) epoch: AgentEpoch,
    pub(crate) description: NodeDescription,
    pub(crate) rules: Rules,
    pub(crate) fixed_args: Fixed,
    pub(crate) metrics: Metrics,
    pub(crate) state: StateDir,
    /// Held while the operator's wish is written down, so that the last one stays.
    pub(crate) keeping: Mutex<()>,
    pub(crate) logs: Logs,
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

    /// The last lines a spawn wrote.
    pub(crate) fn last_words(&self, id: SpawnId) -> Vec<String> {
        output::last_words(&output::path(self.state.logs(), id))
    }

    /// Writes down what the operator wants.
    pub(crate) fn keep_wish(&self) {
        let _one_at_a_time = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let wish = self.table().wish().clone();
        self.state.keep_wish(&wish);
    }
}
