//! The two signals that ask a role to end, SIGTERM and SIGINT. Caught from the start, so that none is lost before the role is ready;
//! the first begins an orderly end, the next one hurries it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// SIGTERM and SIGINT, caught from the moment this exists.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on these signals do not end the process by themselves.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Does the work of an orderly end; the next signal cancels the token, which means: hurry.
    pub(crate) async fn hurry_on_next<T>(
        &mut self,
        hurry: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                name = self.next() => {
                    warn!(signal.name = name, "a second signal: hurrying");
                    hurry.cancel();
                }
            }
        }
    }
}
