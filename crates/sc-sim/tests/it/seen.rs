//! Waiting for something to be seen, with a bound and a message that says what was seen instead.

use std::fmt::Debug;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Far beyond what anything here takes, even on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// What a thread has seen so far, in order.
pub(crate) struct Seen<T>(Arc<(Mutex<Vec<T>>, Condvar)>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone + Debug> Seen<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new((Mutex::new(Vec::new()), Condvar::new())))
    }

    pub(crate) fn push(&self, value: T) {
        self.lock().push(value);
        self.0.1.notify_all();
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.lock().clone()
    }

    /// The first value that fits.
    pub(crate) fn wait_for(&self, what: &str, fits: impl Fn(&T) -> bool) -> T {
        self.wait_until(what, |all| all.iter().find(|value| fits(value)).cloned())
    }

    /// Whatever `enough` makes of all values, once it makes something of them.
    pub(crate) fn wait_until<R>(&self, what: &str, enough: impl Fn(&[T]) -> Option<R>) -> R {
        let deadline = Instant::now() + TIMEOUT;
        let mut all = self.lock();
        loop {
            if let Some(result) = enough(&all) {
                return result;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}; saw {all:#?}");
            all = self.0.1.wait_timeout(all, left).expect("no panics").0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.0.lock().expect("no panics under this lock")
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn until<R>(what: &str, mut ask: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
