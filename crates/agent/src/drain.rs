//! The deadline of a drain: when it comes, what still runs is ended.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::spawn::exit::Cause;
use crate::table::Again;

/// Waits for deadlines until told to stop. A drain that is undone or gets another deadline is looked at anew.
pub(crate) async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let bell = node.table().wish_bell();
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
            () = bell.notified() => {}
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
    // It may have been undone this very moment.
    if table.drain_deadline().is_some_and(|deadline| deadline <= now) {
        table.end_all(Cause::Drained, Again::ChangesNothing, now);
        let running = table.running();
        drop(table);
        tracing::info!(running, "the drain's deadline has come");
    }
}
