//! Looks again and again which spawns have a viewer, and ends those whose viewers have sent nothing for too long.
//!
//! Relays report their viewers; of those that come without a relay only the kernel knows, and of both it knows when data last came.
//! Owns nothing: what it sees goes into the table and the journal. Failure: a look that takes too long is left out.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::sockets;
use crate::state::record::JournalEvent;
use crate::table::viewer::Seen;

/// How often it is looked; a viewer that has no relay is noticed after so long at the latest.
const LOOK: Duration = Duration::from_secs(1);
/// How long the kernel may take to say who is connected.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs until the agent stops.
pub(crate) async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // What relays had stays with their viewers: the next agent will see it.
            () = node.leaving.cancelled() => return stop.cancelled().await,
            _ = ticks.tick() => {}
            () = node.viewer_gone.notified() => {}
        }
        look(&node).await;
    }
}

async fn look(node: &Arc<Node>) {
    let Some(ports) = node.table().viewers_ports() else { return };
    let then = Instant::now();
    let connections = node.disk.logs.call(LOOK_TIMEOUT, move || sockets::connections(ports)).await;
    let Ok(connections) = connections else { return };
    let now = Instant::now();
    let seen = node.table().look(&connections, then, now);
    for seen in seen {
        let at = node.state.clock.moment(now);
        match seen {
            Seen::Connected(id) => {
                tracing::debug!(spawn.id = %id, requestId = node.request_of(id), "viewer connected without a relay");
                node.state.journal.happened(id, JournalEvent::Connected(at));
            }
            Seen::Gone(id) => {
                tracing::debug!(spawn.id = %id, requestId = node.request_of(id), "viewer gone");
                node.state.journal.happened(id, JournalEvent::ViewerGone(at));
            }
        }
    }
}
