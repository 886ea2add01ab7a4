//! How far shutdown has come, as tokens that the parts of a front door wait for. `start` cancels them, one after the other:
//!
//! ```text
//! running ─▶ leaving ─▶ cut ─▶ closed ─▶ handed over ─▶ over
//! ```
//!
//! Invariant: `over` cancels the others and `closed` cancels `cut`, so a dropped front door leaves nothing running.

use tokio_util::sync::CancellationToken;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    /// Not ready any more; no new connections.
    pub(crate) leaving: CancellationToken,
    /// The grace is over: requests answer that they were cut.
    pub(crate) cut: CancellationToken,
    /// Connections are closed, answered or not.
    pub(crate) closed: CancellationToken,
    /// Only viewers are left: the next front door may have the admin port.
    pub(crate) handed_over: CancellationToken,
    /// Background tasks end.
    pub(crate) over: CancellationToken,
}

impl Stages {
    pub(crate) fn new() -> Self {
        let over = CancellationToken::new();
        let (closed, leaving) = (over.child_token(), over.child_token());
        Self { cut: closed.child_token(), handed_over: over.child_token(), leaving, closed, over }
    }
}
