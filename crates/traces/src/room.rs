//! How many spans may wait for the collector.
//!
//! Invariants: never more than there is room for, and none is refused while there is room. `tests/interleavings.rs` runs it in every order that
//! threads can have.

use crate::sync::{AtomicUsize, Ordering};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Room {
    limit: usize,
    taken: AtomicUsize,
}

impl Room {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, taken: AtomicUsize::new(0) }
    }

    /// Whether there was room for one more, which has it now.
    pub(crate) fn enter(&self) -> bool {
        let more = |taken: usize| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// So many have left.
    pub(crate) fn leave(&self, count: usize) {
        self.taken.fetch_sub(count, Ordering::Relaxed);
    }
}
