//! One lane: threads with a queue, and calls with deadlines.
//!
//! Owns its threads and its queue, both bounded. Invariant: a caller waits no longer than its deadline, whatever the disk does. A
//! call that hangs keeps its thread; the lane starts another one up to its bound, and with all of them hung refuses further calls.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::simulated::{Job, Machine};

/// A call that takes longer is taken to hang.
const HUNG_AFTER: Duration = Duration::from_secs(1);
/// Deadlines are counted in slices. One that took twice as long was not a wait but a stall of the agent.
const SLICE: Duration = Duration::from_millis(250);
/// Nothing that runs here needs more.
const STACK: usize = 512 << 10;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("the disk has not answered within {0:?}")]
    Late(Duration),
    #[error("the disk does not answer: all {threads} threads for {lane} wait for it")]
    Stuck { lane: &'static str, threads: usize },
    #[error("{queued} calls wait for the disk already ({lane})")]
    Full { lane: &'static str, queued: usize },
    #[error("a call to the disk has failed, the log has more")]
    Failed,
}

/// A handle; clones share the threads, which end with the last one.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Workers);

#[derive(Debug, Clone)]
enum Workers {
    Threads(Arc<Owner>),
    Simulated(&'static str, Arc<dyn Machine>),
}

#[derive(Debug)]
struct Owner(Arc<Shared>);

struct Shared {
    name: &'static str,
    max_threads: usize,
    max_queued: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Since when each thread has worked on its job; `None` while it has none.
    busy: Vec<Option<Instant>>,
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.wake.notify_all();
    }
}

impl Lane {
    /// Starts its first thread.
    pub(crate) fn new(name: &'static str, max_threads: usize, max_queued: usize) -> io::Result<Self> {
        let state = Mutex::new(State { busy: vec![None], ..State::default() });
        let shared = Arc::new(Shared { name, max_threads, max_queued, state, wake: Condvar::new() });
        shared.start_thread(0)?;
        Ok(Self(Workers::Threads(Arc::new(Owner(shared)))))
    }

    /// A lane of a simulated machine, which has no threads.
    pub(crate) fn simulated(name: &'static str, machine: Arc<dyn Machine>) -> Self {
        Self(Workers::Simulated(name, machine))
    }

    pub(crate) fn name(&self) -> &'static str {
        match &self.0 {
            Workers::Threads(owner) => owner.0.name,
            Workers::Simulated(name, _) => name,
        }
    }

    /// How many threads hang.
    pub(crate) fn hung(&self) -> usize {
        match &self.0 {
            Workers::Threads(owner) => owner.0.state().hung(),
            Workers::Simulated(..) => 0,
        }
    }

    /// Whether every thread hangs.
    pub(crate) fn is_stuck(&self) -> bool {
        match &self.0 {
            Workers::Threads(owner) => self.hung() == owner.0.max_threads,
            Workers::Simulated(..) => false,
        }
    }

    /// Runs `work`, and gives up on it after `within`. Work that has begun goes on; its result is then dropped on its thread,
    /// so a result that owns something must release it when it is dropped.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DiskError> {
        let (sender, mut receiver) = oneshot::channel();
        self.post(move || {
            if !sender.is_closed() {
                // The caller may give up at any moment; the result is dropped then.
                drop(sender.send(work()));
            }
        })?;
        // Time in which the whole agent did not run says nothing of the disk, so it is not counted.
        let mut left = within;
        while !left.is_zero() {
            let (slice, since) = (left.min(SLICE), Instant::now());
            match tokio::time::timeout(slice, &mut receiver).await {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(_panicked)) => return Err(DiskError::Failed),
                Err(_elapsed) if since.elapsed() > slice + SLICE => {}
                Err(_elapsed) => left -= slice,
            }
        }
        Err(DiskError::Late(within))
    }

    /// Runs `work` when a thread is free; nothing waits for it.
    pub(crate) fn post(&self, work: impl FnOnce() + Send + 'static) -> Result<(), DiskError> {
        let shared = match &self.0 {
            Workers::Threads(owner) => &owner.0,
            Workers::Simulated(name, machine) => {
                machine.run(name, Box::new(work));
                return Ok(());
            }
        };
        let mut state = shared.state();
        if state.hung() == shared.max_threads {
            return Err(DiskError::Stuck { lane: shared.name, threads: shared.max_threads });
        }
        if state.queue.len() >= shared.max_queued {
            return Err(DiskError::Full { lane: shared.name, queued: state.queue.len() });
        }
        state.queue.push_back(Box::new(work));
        let free = state.busy.iter().filter(|since| since.is_none()).count();
        if free < state.queue.len() && state.busy.len() < shared.max_threads {
            let index = state.busy.len();
            state.busy.push(None);
            // The machine may be out of processes; the threads that there are do the work then.
            if let Err(error) = shared.start_thread(index) {
                state.busy.pop();
                tracing::debug!(%error, lane = shared.name, "failed to start a thread");
            }
        }
        drop(state);
        shared.wake.notify_one();
        Ok(())
    }
}

impl State {
    fn hung(&self) -> usize {
        self.busy.iter().flatten().filter(|since| since.elapsed() >= HUNG_AFTER).count()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread(self: &Arc<Self>, index: usize) -> io::Result<()> {
        let shared = Arc::clone(self);
        let builder = std::thread::Builder::new().name(format!("disk-{}", self.name)).stack_size(STACK);
        builder.spawn(move || shared.work(index)).map(drop)
    }

    fn work(&self, index: usize) {
        loop {
            let job = {
                let mut state = self.state();
                state.busy[index] = None;
                loop {
                    if let Some(job) = state.queue.pop_front() {
                        state.busy[index] = Some(Instant::now());
                        break job;
                    }
                    if state.closed {
                        return;
                    }
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            // The panic hook has logged it, and the caller sees that there is no result.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!(lane = self.name, "a call to the disk has failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(10);

    /// Occupies a thread until the sender is dropped.
    fn hang(lane: &Lane) -> mpsc::Sender<()> {
        let (release, wait) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        lane.post(move || {
            begun.send(()).ok();
            wait.recv().ok();
        })
        .unwrap();
        has_begun.recv_timeout(LONG).unwrap();
        release
    }

    #[tokio::test]
    async fn a_call_past_its_deadline_fails_while_others_go_on() {
        let lane = Lane::new("test", 2, 10).unwrap();
        let release = hang(&lane);
        assert_eq!(lane.call(LONG, || 7).await.unwrap(), 7);
        let (go, wait) = mpsc::channel::<()>();
        let started = Instant::now();
        let late = lane.call(SHORT, move || wait.recv().ok()).await;
        assert!(matches!(late, Err(DiskError::Late(_))), "{late:?}");
        assert!(started.elapsed() < LONG / 2);
        drop(go);
        assert_eq!(lane.call(LONG, || 8).await.unwrap(), 8, "its thread is free again");
        drop(release);
    }

    #[tokio::test]
    async fn a_lane_whose_threads_all_hang_refuses_at_once_and_recovers() {
        let lane = Lane::new("test", 2, 10).unwrap();
        let releases = [hang(&lane), hang(&lane)];
        let deadline = Instant::now() + LONG;
        while !lane.is_stuck() {
            assert!(Instant::now() < deadline, "never taken to hang");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let started = Instant::now();
        let refused = lane.call(LONG, || ()).await;
        assert!(matches!(refused, Err(DiskError::Stuck { threads: 2, .. })), "{refused:?}");
        assert!(started.elapsed() < LONG / 2);
        drop(releases);
        while lane.hung() > 0 {
            assert!(Instant::now() < deadline, "never free again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lane.call(LONG, || ()).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_what_no_caller_waits_for_is_not_begun() {
        let lane = Lane::new("test", 1, 1).unwrap();
        let release = hang(&lane);
        let (begun, has_begun) = mpsc::channel();
        let late = lane.call(SHORT, move || begun.send(()).ok()).await;
        assert!(matches!(late, Err(DiskError::Late(_))));
        let full = lane.post(|| ());
        assert!(matches!(full, Err(DiskError::Full { queued: 1, .. })), "{full:?}");
        drop(release);
        let deadline = Instant::now() + LONG;
        while lane.call(LONG, || ()).await.is_err() {
            assert!(Instant::now() < deadline, "never empty");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(has_begun.try_recv().is_err(), "its caller had given up");
    }

    #[tokio::test]
    async fn a_call_that_panics_costs_no_thread() {
        let lane = Lane::new("test", 1, 10).unwrap();
        let failed = lane.call(LONG, || assert!(std::hint::black_box(false), "as it should")).await;
        assert!(matches!(failed, Err(DiskError::Failed)), "{failed:?}");
        assert_eq!(lane.call(LONG, || 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn the_result_of_a_late_call_is_dropped_where_it_came_about() {
        let lane = Lane::new("test", 1, 10).unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let guard = Arc::new(());
        let held = Arc::clone(&guard);
        let late = lane
            .call(SHORT, move || {
                wait.recv().ok();
                held
            })
            .await;
        assert!(late.is_err());
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(go);
        lane.call(LONG, || ()).await.unwrap();
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
