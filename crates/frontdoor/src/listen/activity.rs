//! The state of one connection: whether it is idle, and may be evicted.
//!
//! Invariant: only the connection's own task changes it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use super::eviction::ConnectionState;
use crate::metrics::ClosedReason;

/// No request is being answered. A head may be on its way.
const IDLE: u8 = 0;
/// From the end of a request's head on.
const ANSWERING: u8 = 1;
/// The answer was handed over to the connection as a whole, and may not have been written.
const HANDED_OVER: u8 = 2;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Odd from the end of a request's head until its answer is made, even while the next head is awaited.
    turn: AtomicU64,
    answer: AtomicU8,
    /// Bytes of a head that is not here as a whole.
    head: AtomicUsize,
    /// The peer does not read what is written to it.
    unread: AtomicBool,
    /// It is no HTTP connection any more.
    upgraded: AtomicBool,
    ended: OnceLock<ClosedReason>,
}

impl Activity {
    /// A request's head is there.
    pub(super) fn begin(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.answer.store(ANSWERING, Ordering::Relaxed);
        self.head.store(0, Ordering::Relaxed);
    }

    /// Its answer is made.
    pub(super) fn answered(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Everything that was handed over has been written.
    pub(super) fn flushed(&self) {
        if self.answer.load(Ordering::Relaxed) == HANDED_OVER {
            self.answer.store(IDLE, Ordering::Relaxed);
        }
    }

    /// Whether something that was written waits for the peer to read it.
    pub(super) fn wrote(&self, waits: bool) {
        self.unread.store(waits, Ordering::Relaxed);
    }

    /// From now on it is no HTTP connection, and its user sees to timeouts.
    pub(super) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// So many more bytes of a request's head are here.
    pub(super) fn heard(&self, bytes: usize) {
        self.head.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The state; `None` once it is no HTTP connection any more.
    pub(super) fn state(&self) -> Option<ConnectionState> {
        if self.is_upgraded() {
            return None;
        }
        Some(match (self.is_idle(), self.head.load(Ordering::Relaxed)) {
            (false, _) => ConnectionState::Busy,
            (true, 0) => ConnectionState::Idle,
            (true, bytes) => ConnectionState::Begun(bytes),
        })
    }

    /// Whether there is nothing to do here but wait for the peer.
    fn is_idle(&self) -> bool {
        match self.answer.load(Ordering::Relaxed) {
            IDLE => true,
            HANDED_OVER => self.unread.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// Notes why the connection is being ended from here.
    pub(super) fn end(&self, reason: ClosedReason) {
        self.ended.get_or_init(|| reason);
    }

    pub(super) fn ended(&self) -> Option<ClosedReason> {
        self.ended.get().copied()
    }
}

/// An answer's body that notes when it was handed over, and ends when its caller has hung up.
pub(super) struct ActivityBody {
    body: Body,
    /// `None` when the connection is no HTTP connection after this answer.
    activity: Option<Arc<Activity>>,
    /// Returns when the caller has hung up; `None` where the body is there as a whole.
    left: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl ActivityBody {
    /// `left` returns when the caller has hung up.
    pub(super) fn new(
        body: Body,
        activity: Option<Arc<Activity>>,
        left: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let is_made_on_the_way = activity.is_some() && body.size_hint().exact().is_none();
        let left = is_made_on_the_way.then(|| Box::pin(left) as Pin<Box<dyn Future<Output = ()> + Send>>);
        Self { body, activity, left }
    }
}

impl Drop for ActivityBody {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.answer.store(HANDED_OVER, Ordering::Relaxed);
        }
    }
}

impl HttpBody for ActivityBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() && self.left.as_mut().is_some_and(|left| left.as_mut().poll(cx).is_ready()) {
            self.left = None;
            // It closes the connection, and whatever the body stands for cleans up after itself.
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::from(
                io::ErrorKind::ConnectionAborted,
            )))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
