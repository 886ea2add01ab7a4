//! The tasks of a running agent, each with a name, without any of which it does not go on.
//!
//! A task that ends without being asked to, or panics, closes the agent ([`Node::closed`](crate::node::Node)): an agent with a part missing
//! would go on without doing all it promises, and the next agent adopts what runs.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::node::Node;

/// A task with the name it has in the log.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: &'static str,
    pub(crate) stop: CancellationToken,
    pub(crate) handle: JoinHandle<()>,
}

impl Task {
    pub(crate) fn start<F>(node: &Node, name: &'static str, task: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let guard = Guard { name, stop: stop.clone(), closed: node.closed.clone() };
        let work = task(stop.clone());
        let guarded = async move {
            let _guard = guard;
            work.await;
        };
        let handle = tokio::spawn(guarded.instrument(tracing::info_span!("task", name)));
        Self { name, stop, handle }
    }
}

/// Sees to it that an agent does not go on with a part missing, not even when that part panicked.
struct Guard {
    name: &'static str,
    stop: CancellationToken,
    closed: CancellationToken,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() && !self.closed.is_cancelled() {
            tracing::error!(name = self.name, "a part of the agent has failed");
            self.closed.cancel();
        }
    }
}

/// Logs why a server has ended, when it did so by an error.
pub(crate) fn report_end<E: std::fmt::Display>(name: &'static str, served: Result<(), E>) {
    if let Err(error) = served {
        tracing::error!(%error, name, "a server has ended");
    }
}
