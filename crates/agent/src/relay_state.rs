//! What is known of the relay of this node, where it has one (`--viewer-relay`): spawns that no viewer can reach belong on another node.
//!
//! ```text
//!  not seen yet ─ it answers ─▶ there ◀─ it answers ─ gone: starts are refused, so front doors go elsewhere
//!                                 └─ no answer [`MISSES`] times ─▲
//! ```
//!
//! [`crate::relay_watch`] looks, [`crate::admission`] asks. A relay that has never answered says nothing: its address may be one that front doors
//! reach and this node does not. What runs is left alone, since a relay that is replaced takes its viewers' places within a moment.

use std::sync::atomic::{AtomicU8, Ordering};

/// So many looks without an answer: a relay that is restarted is back before.
const MISSES: u8 = 3;
/// Nothing has answered yet.
const UNSEEN: u8 = u8::MAX;

/// What the looks have shown: how many in a row were without an answer.
#[derive(Debug)]
pub(crate) struct RelayState(AtomicU8);

impl Default for RelayState {
    fn default() -> Self {
        Self(AtomicU8::new(UNSEEN))
    }
}

impl RelayState {
    /// Whether the relay has been there and is not any more.
    pub(crate) fn is_gone(&self) -> bool {
        (MISSES..UNSEEN).contains(&self.0.load(Ordering::Relaxed))
    }

    /// Notes a look; returns whether the verdict has changed.
    pub(crate) fn note(&self, answers: bool) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_gone_once_it_has_answered_and_then_not_three_times() {
        let watch = RelayState::default();
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
