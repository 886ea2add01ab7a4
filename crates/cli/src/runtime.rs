//! The runtime of a command: one that says so when the machine has no more threads, instead of panicking.

use std::io;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::failure::Failure;

/// Threads for blocking work: reading of files that may be replaced, and names that are looked up.
const MAX_BLOCKING_THREADS: usize = 64;

/// A thread could not be made.
pub(crate) fn no_thread(error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot start: this user, or the machine, is out of threads (see ulimit -u and pids.max): {error}"
    ))
}

/// Makes as many threads as a runtime begins with, which would panic if it did not get them.
///
/// # Errors
/// One could not be made.
fn threads_can_be_made() -> io::Result<()> {
    let count = thread::available_parallelism().map_or(1, usize::from) + 1;
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // They end with this guard.
        let _closed = gate.lock();
        for _ in 0..count {
            thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()))?;
        }
        Ok(())
    })
}

/// Runs this on a runtime with timers and sockets. What is still running after it, such as the look-up of a name, is not
/// waited for.
pub(crate) fn block_on<T>(
    mut builder: Builder,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    threads_can_be_made().map_err(|error| no_thread(&error))?;
    // Without a thread for blocking work, and with none to be had, the runtime panics. One is made now, and threads stay.
    builder.enable_all().thread_keep_alive(Duration::MAX).max_blocking_threads(MAX_BLOCKING_THREADS);
    let runtime = builder.build().map_err(|e| Failure::failed(format!("cannot start a runtime: {e}")))?;
    drop(runtime.spawn_blocking(|| ()));
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}
