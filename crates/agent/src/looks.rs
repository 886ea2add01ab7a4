//! Looks at the connections of this machine, shared by all who need one.
//!
//! A look walks through all connections that the kernel has, which takes milliseconds of a core, whatever is looked for. So there is one at a
//! time, made by the watch over viewers, and it serves everybody who asked before it began.
//!
//! Invariant: [`Looks::fresh`] gives a look that began after the call, never an older one. Failure: one that the kernel does not answer
//! in time shows no connection, and the callers do not wait longer than for two of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::sockets::KernelConnection;

/// How long the kernel may take to say who is connected.
pub(crate) const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Looks {
    wake: Notify,
    /// The number of the last one that has begun.
    begun: AtomicU64,
    last: watch::Sender<Look>,
}

/// What one look showed.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    number: u64,
    /// When it began.
    pub(crate) then: Instant,
    /// `None` when the kernel did not answer in time.
    connections: Option<Arc<[KernelConnection]>>,
}

impl Look {
    /// Whether something was connected to this port of a spawn that a viewer may connect to.
    pub(crate) fn has_connection(&self, port: u16) -> bool {
        self.connections.iter().flat_map(|all| all.iter()).any(|connection| connection.port == port)
    }
}

impl Looks {
    pub(crate) fn new() -> Self {
        let none = Look { number: 0, then: Instant::now(), connections: None };
        Self { wake: Notify::new(), begun: AtomicU64::new(0), last: watch::Sender::new(none) }
    }

    /// Has the next look made at once.
    pub(crate) fn hurry(&self) {
        self.wake.notify_one();
    }

    /// Resolves when a look is to be made at once.
    pub(crate) async fn wanted(&self) {
        self.wake.notified().await;
    }

    /// A look that begins after this call. `None` when there is none in time.
    pub(crate) async fn fresh(&self) -> Option<Look> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.subscribe();
        // A look that is under way may have begun too early: the wake-up stays, and the next one follows it.
        self.hurry();
        let fresh = timeout(LOOK_TIMEOUT * 2, last.wait_for(|look| look.number > before)).await;
        fresh.ok()?.ok().map(|look| look.clone())
    }

    /// A look begins: its number.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The look with this number is over. `connections`: `None` when the kernel did not answer in time.
    pub(crate) fn finish(&self, number: u64, then: Instant, connections: Option<Arc<[KernelConnection]>>) {
        self.last.send_replace(Look { number, then, connections });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_look_that_began_before_it_was_asked_for_serves_no_caller() {
        let looks = Looks::new();
        let (early, then) = (looks.begin(), Instant::now());
        let mut asked = Box::pin(looks.fresh());
        assert!(asked.as_mut().now_or_never().is_none());
        looks.wanted().await;
        looks.finish(early, then, Some(Arc::default()));
        assert!(asked.as_mut().now_or_never().is_none(), "it began too early");
        let (one, other) = (looks.begin(), KernelConnection { port: 7, silent: None });
        looks.finish(one, then, Some([other].into()));
        let look = asked.await.unwrap();
        assert!(look.has_connection(7) && !look.has_connection(8));
    }

    #[tokio::test]
    async fn many_who_ask_share_a_look_also_one_that_the_kernel_did_not_answer() {
        let looks = Looks::new();
        let mut asked: Vec<_> = (0..9).map(|_| Box::pin(looks.fresh())).collect();
        asked.iter_mut().for_each(|one| assert!(one.as_mut().now_or_never().is_none()));
        let number = looks.begin();
        looks.finish(number, Instant::now(), None);
        for one in asked {
            assert!(!one.await.unwrap().has_connection(7), "the kernel did not answer");
        }
    }
}
