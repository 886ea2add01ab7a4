//! Keeps the output files of spawns short: it looks at all of them now and then, and much more often for a while after one had to be
//! cut, so that a server that writes as fast as it can takes little of the disk until it is looked at again.
//!
//! At the write a file is bounded by `--spawn-file-size`, which is a limit of the process (`spawn::limits`): it holds also while this agent
//! is stopped or gone. It counts the whole of an output, so one that is cut in front again and again begins anew at half of it. A pipe would
//! break with its agent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::spawn::{Facts, output};

const INTERVAL: Duration = Duration::from_millis(250);
/// While some file grows fast.
const QUICK_INTERVAL: Duration = Duration::from_millis(20);
const QUICK_FOR: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Looks {
    /// One is under way: a disk that hangs has no more than that of its lane.
    busy: AtomicBool,
    /// Rings when a file was cut.
    cut: Notify,
}

/// Bounds the files until `stop` is cancelled.
pub(crate) async fn keep(node: Arc<Node>, stop: CancellationToken) {
    let looks = Arc::new(Looks::default());
    let mut quick_until = None;
    loop {
        let now = Instant::now();
        let interval = if quick_until.is_some_and(|until| now < until) { QUICK_INTERVAL } else { INTERVAL };
        if !looks.busy.swap(true, Ordering::AcqRel) {
            let (node_, look) = (Arc::clone(&node), Look(Arc::clone(&looks)));
            node.disk.logs.post(move || look.at_all(&node_)).ok();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
            () = looks.cut.notified() => {
                quick_until = Some(Instant::now() + QUICK_FOR);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(QUICK_INTERVAL) => {}
                }
            }
        }
    }
}

/// One look; dropping it lets the next one begin.
struct Look(Arc<Looks>);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

impl Look {
    /// Cuts what has become too long. Blocks.
    fn at_all(self, node: &Node) {
        let facts: Vec<Arc<Facts>> = {
            let table = node.table();
            table.snapshots().map(|spawn| &spawn.facts).chain(table.warm_facts()).map(Arc::clone).collect()
        };
        for facts in facts {
            let id = facts.id;
            match output::bound(&facts.log(node.state.logs()), node.config.spawn_file_size) {
                Ok(true) => self.0.cut.notify_one(),
                Ok(false) => {}
                // The log was removed, or the spawn has none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%error, spawn.id = %id, requestId = node.request_of(id), "failed to bound the output of a spawn")
                }
            }
        }
    }
}
