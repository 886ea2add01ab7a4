//! Lines on their way from those who log to the thread that writes: a bounded buffer, and the two wake-ups around it.
//!
//! Invariants: whole lines only; those who log never wait; a flush returns `true` only when every line that was taken before it is written.
//! `tests/interleavings.rs` runs it in every order that threads can have.

use std::mem;
use std::sync::PoisonError;
use std::time::Duration;
#[expect(clippy::disallowed_types, reason = "a log is flushed where there is no runtime")]
use std::time::Instant;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Bytes that may wait.
    room: usize,
    state: Mutex<State>,
    /// Signals that there are lines to write.
    filled: Condvar,
    /// Signals that all lines are written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// The thread has taken lines that it has not written yet.
    writing: bool,
    /// Lines dropped since the last report.
    dropped: u64,
}

impl Buffer {
    /// A buffer of so many bytes.
    pub(crate) fn new(room: usize) -> Self {
        let (filled, written) = (Condvar::new(), Condvar::new());
        Self { room, state: Mutex::new(State::default()), filled, written }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes lines, `count` of them. `false` when there is no room: they are dropped then.
    pub(crate) fn push(&self, lines: &[u8], count: u64) -> bool {
        let mut state = self.state();
        if state.lines.len() + lines.len() > self.room {
            state.dropped += count;
            return false;
        }
        state.lines.extend_from_slice(lines);
        self.filled.notify_one();
        true
    }

    /// Waits for lines and moves them into `batch`, which is empty. Returns how many were dropped since it was last called. The
    /// one that takes lines calls [`Self::wrote`] next.
    pub(crate) fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let mut state = self.state();
        while state.lines.is_empty() {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        mem::swap(batch, &mut state.lines);
        state.writing = true;
        mem::take(&mut state.dropped)
    }

    /// What was taken is written, or lost.
    pub(crate) fn wrote(&self) {
        let mut state = self.state();
        state.writing = false;
        if state.lines.is_empty() {
            self.written.notify_all();
        }
    }

    /// Waits until every line is written, for up to `limit`. Returns whether they are.
    #[expect(clippy::disallowed_types, reason = "a log is flushed where there is no runtime")]
    pub(crate) fn flush_within(&self, limit: Duration) -> bool {
        let began = Instant::now();
        let mut state = self.state();
        while state.writing || !state.lines.is_empty() {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return false;
            }
            state = self.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
