//! Looks again and again whether the relay of this node answers. Owns nothing: what a look shows goes into [`crate::relay_state`].

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Between two looks, and the longest time for one.
const LOOK: Duration = Duration::from_secs(2);

/// Looks until the agent stops. Where there is no relay it only waits for that.
pub(crate) async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let Some(relay) = node.config.viewer_relay.clone() else { return stop.cancelled().await };
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let answers = matches!(timeout(LOOK, TcpStream::connect(&relay)).await, Ok(Ok(_)));
        if !node.viewer_relay.note(answers) {
            continue;
        }
        if answers {
            tracing::info!(relay, "the relay of this node answers");
        } else {
            tracing::warn!(relay, "the relay of this node does not answer: starts are refused until it does");
        }
    }
}
