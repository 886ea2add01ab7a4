//! Keeps warm servers: started and ready before anything asks for them, so that a request that needs nothing special is answered without
//! a start.
//!
//! One task follows the plan of the pool ([`crate::table::warm::plan`]) whenever something has changed. It starts servers through the gate of
//! starts, after all spawns that wait there; each server is owned by a task of its own ([`keeper`]). The table owns the pool.
//!
//! A server may take a licence for as long as it is kept. Failure: one that dies by itself is replaced after a pause that doubles from one
//! second to a minute.

pub(crate) mod keeper;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::keeper::Keeper;
use crate::node::Node;
use crate::table::warm::plan::Plan;

/// When it is tried again where memory, a port or the disk was short: nothing says when they are not any more.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps as many servers as are wanted, until `stop` is cancelled.
pub(crate) async fn keep(node: Arc<Node>, stop: CancellationToken) {
    let changed = node.table().warm_changed();
    loop {
        let now = Instant::now();
        let is_short = follow(&node, now);
        let next = node.table().next_warm_plan(now);
        let next = if is_short { Some(next.map_or(now + LOOK, |next| next.min(now + LOOK))) } else { next };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            // The next agent keeps what is there.
            () = node.leaving.cancelled() => return stop.cancelled().await,
            () = changed.notified() => {}
            () = due => {}
        }
    }
}

/// Does what the plan says. Returns whether something was short that a start takes.
fn follow(node: &Arc<Node>, now: Instant) -> bool {
    if node.config.warm.is_empty() && node.table().warm_servers() == 0 {
        return false;
    }
    // No servers on a node that may be closed, and none without a place to write down that they run.
    let may_start = node.orders_heard.load(Ordering::Acquire)
        && node.has_memory()
        && node.state.journal.trouble().is_none();
    let Plan { start, end } = node.table().plan_warm(may_start, now);
    for (id, why) in end {
        tracing::info!(server.id = %id, reason = why.as_str(), "a warm server is ended");
        node.table().end_warm(id, why);
    }
    let mut is_short = !may_start;
    for renderer in start {
        let kept = node.table().keep_another(renderer, now);
        let Some(kept) = kept else {
            is_short = true;
            continue;
        };
        let span =
            tracing::error_span!("warm", server.id = %kept.facts.id, node.id = %node.config.node, %renderer);
        node.drivers.spawn(keeper::start(Arc::clone(node), kept).instrument(span));
    }
    is_short
}

/// Runs the keepers of servers that an earlier agent has kept.
pub(crate) fn run(node: &Arc<Node>, keepers: Vec<Keeper>) {
    for keeper in keepers {
        let span = tracing::error_span!("warm", server.id = %keeper.id(), node.id = %node.config.node, adopted = true);
        node.drivers.spawn(keeper.run().instrument(span));
    }
}
