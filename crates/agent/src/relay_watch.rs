//! Looks whether the relay of this node answers, where it has one (`--viewer-relay`): spawns that no viewer can reach belong on another node.
//!
//! ```text
//!  not seen yet ─ it answers ─▶ there ◀─ it answers ─ gone: starts are refused, so front doors go elsewhere
//!                                 └─ no answer [`MISSES`] times ─▲
//! ```
//!
//! Owns the verdict; [`crate::admission`] asks for it. A relay that has never answered says nothing: its address may be one that front doors
//! reach and this node does not. What runs is left alone, since a relay that is replaced takes its viewers' places within a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Between two looks, and the longest time for one.
const LOOK: Duration = Duration::from_secs(2);
/// So many looks without an answer: a relay that is restarted is back before.
const MISSES: u8 = 3;
/// Nothing has answered yet.
const UNSEEN: u8 = u8::MAX;

/// What the looks have shown: how many in a row were without an answer.
#[derive(Debug)]
pub(crate) struct RelayWatch(AtomicU8);

impl Default for RelayWatch {
    fn default() -> Self {
        Self(AtomicU8::new(UNSEEN))
    }
}

impl RelayWatch {
    /// Whether the relay has been there and is not any more.
    pub(crate) fn is_gone(&self) -> bool {
        (MISSES..UNSEEN).contains(&self.0.load(Ordering::Relaxed))
    }

    /// Notes a look; returns whether the verdict has changed.
    fn note(&self, answers: bool) -> bool {
        let misses = self.0.load(Ordering::Relaxed);
        let before = (misses == UNSEEN, self.is_gone());
        let now = match (answers, misses) {
            (true, _) => 0,
            (false, UNSEEN) => UNSEEN,
            (false, misses) => (misses + 1).min(MISSES),
        };
        self.0.store(now, Ordering::Relaxed);
        before != (now == UNSEEN, self.is_gone())
    }
}

/// Looks until the agent stops; at once done where there is no relay.
pub(crate) async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let Some(relay) = node.config.viewer_relay.clone() else { return stop.cancelled().await };
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let answers = matches!(timeout(LOOK, TcpStream::connect(&relay)).await, Ok(Ok(_)));
        if !node.relay_watch.note(answers) {
            continue;
        }
        if answers {
            tracing::info!(relay, "the relay of this node answers");
        } else {
            tracing::warn!(relay, "the relay of this node does not answer: starts are refused until it does");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_gone_once_it_has_answered_and_then_not_three_times() {
        let watch = RelayWatch::default();
        for (answers, gone, changes) in [
            (false, false, false),
            (false, false, false),
            (false, false, false),
            (false, false, false),
            (true, false, true),
            (false, false, false),
            (false, false, false),
            (true, false, false),
            (false, false, false),
            (false, false, false),
            (false, true, true),
            (false, true, false),
            (true, false, true),
        ] {
            assert_eq!((watch.note(answers), watch.is_gone()), (changes, gone));
        }
    }
}
