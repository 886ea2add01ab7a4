//! Clean-ups: work that outlives the request that began it, such as releasing slots, ending spawns whose callers left, and
//! learning the outcome of calls with side effects.
//!
//! Owns: the tasks of all clean-ups. Shutdown waits for them.
//!
//! Invariants: at most [`MAX_TASKS`] clean-ups that only repeat a call to the registry; beyond that they are dropped, because the
//! expiry of the reservation does the same. Ending a spawn that may have been started is never dropped: there is one task for each,
//! at most as many as there were requests, and [`MAX_ENDING`] of them at once call agents.
//!
//! Failure: [`persist`] repeats a call for [`PERSIST_TIMEOUT`], waits while the registry is away, and then gives up with a warning.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use registry::RegistryError;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, warn};

use super::circuit::RegistryClient;
use crate::backoff::Backoff;

/// How long a clean-up is repeated, an outage of the registry included. After that the reservation expires.
const PERSIST_TIMEOUT: Duration = Duration::from_secs(120);
/// Spreads the calls of all clean-ups that waited for the end of an outage.
const SPREAD: Duration = Duration::from_millis(500);
/// Clean-ups at once, ends of spawns aside. Beyond, reservations are left to expire.
const MAX_TASKS: usize = 10_000;
/// Ends of spawns that call agents at once.
const MAX_ENDING: usize = 256;

/// Where clean-ups run.
#[derive(Debug, Clone)]
pub(crate) struct Cleanups {
    tasks: TaskTracker,
    /// Ends of spawns.
    ends: TaskTracker,
    ending: Arc<Semaphore>,
    /// Guards are dropped anywhere, also while the runtime shuts down.
    runtime: Handle,
}

impl Cleanups {
    /// To be called inside the runtime that will run them.
    pub(crate) fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            ends: TaskTracker::new(),
            ending: Arc::new(Semaphore::new(MAX_ENDING)),
            runtime: Handle::current(),
        }
    }

    /// Runs work that ends a spawn which may have been started: it is never dropped.
    pub(crate) fn end(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.ends.spawn_on(work.instrument(Span::current()), &self.runtime);
    }

    /// Waits for one of the [`MAX_ENDING`] permits to call an agent about an end.
    pub(crate) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.ending).acquire_owned().await.ok()
    }

    /// Runs a clean-up, unless there are [`MAX_TASKS`] already.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if self.tasks.len() >= MAX_TASKS {
            warn!(max = MAX_TASKS, "clean-up left out, too many are under way");
            return;
        }
        self.tasks.spawn_on(work.instrument(Span::current()), &self.runtime);
    }

    /// Runs `work` to its end whether or not the caller stays: in place, without a task of its own, while the caller
    /// waits; from the moment the caller goes away in the background, where the outcome is dropped. An outcome that
    /// holds something must therefore give it back on drop.
    pub(crate) fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Finish<T> {
        Finish { work: Some(Box::pin(work)), cleanups: self.clone() }
    }

    /// Waits up to `limit` until all are done. Returns how many are not.
    pub(crate) async fn wait(&self, limit: Duration) -> usize {
        self.tasks.close();
        self.ends.close();
        let all = futures_util::future::join(self.tasks.wait(), self.ends.wait());
        let late = tokio::time::timeout(limit, all).await.is_err();
        if late { self.tasks.len() + self.ends.len() } else { 0 }
    }
}

/// See [`Cleanups::finish`].
pub(crate) struct Finish<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    cleanups: Cleanups,
}

impl<T: Send + 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.work {
            Some(work) => {
                let outcome = ready!(work.as_mut().poll(cx));
                self.work = None;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

impl<T: Send + 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.cleanups.spawn(async move { drop(work.await) });
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Finish<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finish").field("done", &self.work.is_none()).finish_non_exhaustive()
    }
}

/// Repeats a call to the registry until it succeeds or [`PERSIST_TIMEOUT`] is over, with jittered, growing pauses.
pub(crate) async fn persist<T, F: Future<Output = Result<T, RegistryError>>>(
    registry: &RegistryClient,
    what: &'static str,
    mut call: impl FnMut() -> F,
) -> Option<T> {
    let end = Instant::now() + PERSIST_TIMEOUT;
    let mut pause = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let error = match call().await {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        if Instant::now() >= end {
            warn!(what, %error, "clean-up given up, the reservation's end will do it");
            return None;
        }
        if registry.is_away() {
            // When it stays away, the next round logs that.
            timeout_at(end, registry.back()).await.ok();
            pause.reset();
            sleep(SPREAD.mul_f64(fastrand::f64())).await;
        } else {
            pause.sleep().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_of_spawns_are_not_left_out_when_all_else_is() {
        let cleanups = Cleanups::new();
        let (go, done) = (Arc::new(Notify::new()), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        for _ in 0..MAX_TASKS {
            let go = Arc::clone(&go);
            cleanups.spawn(async move { go.notified().await });
        }
        let late = Arc::clone(&done);
        cleanups.spawn(async move {
            late.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        for _ in 0..1000 {
            let (done, ending) = (Arc::clone(&done), cleanups.clone());
            cleanups.end(async move {
                let _permit = ending.permit().await;
                done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        assert_eq!(cleanups.wait(Duration::from_secs(1)).await, MAX_TASKS, "those that wait");
        assert_eq!(done.load(std::sync::atomic::Ordering::Relaxed), 1000);
    }
}
