//! Looks again and again which spawns have a viewer, and ends those whose viewers have sent nothing for too long.
//!
//! Relays report their viewers; of those that come without a relay only the kernel knows, and of both it knows when data last came.
//! Owns nothing: what a look shows goes into the table and the journal, and to those who wait for it ([`crate::looks`]). Failure: a look
//! that takes too long shows nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::looks::LOOK_TIMEOUT;
use crate::node::Node;
use crate::sockets::{self, KernelConnection};
use crate::state::record::JournalEvent;
use crate::table::viewer::Seen;

/// How often it is looked; a viewer that has no relay is noticed after so long at the latest.
const LOOK: Duration = Duration::from_secs(1);

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
            () = node.looks.wanted() => {}
        }
        look(&node).await;
    }
}

async fn look(node: &Node) {
    let (number, then) = (node.looks.begin(), Instant::now());
    let ports = node.table().viewers_ports();
    let connections = match ports {
        None => Some(Vec::new()),
        Some(ports) => node.disk.logs.call(LOOK_TIMEOUT, move || sockets::connections(ports)).await.ok(),
    };
    if let Some(connections) = &connections {
        note(node, connections, then);
    }
    node.looks.finish(number, then, connections.map(Into::into));
}

/// Has the table and the journal know who has come and gone.
fn note(node: &Node, connections: &[KernelConnection], then: Instant) {
    let now = Instant::now();
    let seen = node.table().look(connections, then, now);
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
