//! The deadline of a drain: when it comes, what still runs is ended.
//!
//! The table owns the deadline ([`crate::desired_state`]); this task only waits for it. It wakes whenever the desired state changes, so that a
//! drain that is undone, or gets another deadline, ends no spawn too early.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::spawn::exit::Cause;
use crate::table::Again;

/// Waits for deadlines until `stop` is cancelled.
pub(crate) async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let changed = node.table().desired_changed();
    // The deadline that has been dealt with.
    let mut done = None;
    loop {
        let deadline = node.table().drain_deadline();
        let due = async {
            match deadline {
                Some(deadline) if done != Some(deadline) => tokio::time::sleep_until(deadline).await,
                Some(_) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = due => {
                done = deadline;
                end_the_rest(&node);
            }
        }
    }
}

fn end_the_rest(node: &Node) {
    let now = Instant::now();
    let mut table = node.table();
    // The drain may have been undone between the timer and this lock.
    if table.drain_deadline().is_some_and(|deadline| deadline <= now) {
        table.end_all(Cause::Drained, Again::ChangesNothing, now);
        let running = table.running();
        drop(table);
        tracing::info!(running, "the drain's deadline has come");
    }
}
