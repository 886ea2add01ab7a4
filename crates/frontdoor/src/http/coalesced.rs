//! One answer for all callers that ask at the same time, because it is expensive to make.
//!
//! Invariants: a caller gets an answer that was begun after it asked, so it shows what the caller did before, also through another
//! front door. Callers that ask while an answer is being made get the next one, all of them the same. Answers are made one after
//! the other and with a pause between them, so callers that ask all the time cost a bounded part of the time; the first answer
//! after a pause is made at once.
//!
//! Failure: a caller that goes away leaves the work to the others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, MutexGuard, OnceCell};
use tokio::time::{Instant, sleep_until};

/// From the beginning of an answer to that of the next: so many times as long as it took, within these.
const PAUSE: u32 = 4;
const MIN_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Coalesced<T> {
    /// The answer that has not been begun, with its callers. Never held across an await.
    next: Mutex<Option<Arc<OnceCell<T>>>>,
    /// Held while an answer is made: when the next one may be begun.
    turn: AsyncMutex<Option<Instant>>,
    /// The longest pause from the beginning of an answer to that of the next.
    max_pause: Duration,
}

impl<T> Default for Coalesced<T> {
    fn default() -> Self {
        Self::paced(MAX_PAUSE)
    }
}

impl<T> Coalesced<T> {
    /// With this as the longest pause.
    pub(crate) fn paced(max_pause: Duration) -> Self {
        Self { next: Mutex::default(), turn: AsyncMutex::default(), max_pause }
    }
}

/// An answer that is being made. However that ends, the next one keeps its distance.
struct Paced<'a> {
    turn: MutexGuard<'a, Option<Instant>>,
    began: Instant,
    max_pause: Duration,
}

impl Drop for Paced<'_> {
    fn drop(&mut self) {
        // What its caller gave up took as long as this, and may go on.
        *self.turn = Some(self.began + (self.began.elapsed() * PAUSE).clamp(MIN_PAUSE, self.max_pause));
    }
}

impl<T: Clone> Coalesced<T> {
    /// The answer that `make` makes, or that of another caller that asks at the same time.
    pub(crate) async fn get(&self, make: impl Future<Output = T>) -> T {
        let cell = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(next.get_or_insert_default())
        };
        let answer = cell.get_or_init(|| async {
            let turn = self.turn.lock().await;
            if let Some(turn) = *turn {
                sleep_until(turn).await;
            }
            {
                // Callers that ask from now on ask for the next one.
                let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                if next.as_ref().is_some_and(|next| Arc::ptr_eq(next, &cell)) {
                    *next = None;
                }
            }
            let _paced = Paced { turn, began: Instant::now(), max_pause: self.max_pause };
            make.await
        });
        answer.await.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_together_get_one_answer_and_who_comes_later_a_later_one() {
        let (shared, made) = (Coalesced::default(), AtomicU32::new(0));
        let ask = || {
            shared.get(async {
                let number = made.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
                number
            })
        };
        let late = async {
            sleep(Duration::from_millis(5)).await;
            join_all((0..100).map(|_| ask())).await
        };
        let (early, late) = tokio::join!(join_all((0..100).map(|_| ask())), late);
        // What was begun before they asked is not theirs.
        assert_eq!(early[0], 0);
        assert!(early[1..].iter().chain(&late).all(|number| *number == 1), "{early:?} {late:?}");
        assert_eq!(ask().await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn asking_all_the_time_has_a_pace_and_asking_once_does_not_wait() {
        let (shared, made) = (Coalesced::default(), AtomicU32::new(0));
        let ask = || shared.get(async { made.fetch_add(1, Ordering::Relaxed) });
        let began = Instant::now();
        ask().await;
        assert!(began.elapsed().is_zero());
        timeout(Duration::from_secs(1), async {
            loop {
                join_all((0..10).map(|_| ask())).await;
            }
        })
        .await
        .unwrap_err();
        assert!(made.load(Ordering::Relaxed) <= 52, "{made:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_leaves_leaves_the_work_to_the_others() {
        let shared = Arc::new(Coalesced::default());
        let stuck = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { shared.get(std::future::pending::<u32>()).await }
        });
        tokio::task::yield_now().await;
        let other = shared.get(async { 7 });
        let give_up = async {
            sleep(Duration::from_secs(1)).await;
            stuck.abort();
        };
        let (answer, ()) = tokio::join!(other, give_up);
        assert_eq!(answer, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_its_caller_gives_up_is_paid_for_like_any_other() {
        let shared = Coalesced::paced(Duration::from_secs(10));
        let slow = shared.get(std::future::pending::<()>());
        timeout(Duration::from_secs(1), slow).await.unwrap_err();
        let began = Instant::now();
        shared.get(async {}).await;
        // The answer that was given up took one second, and four are from its beginning to the next one's.
        let waited = began.elapsed();
        assert!(waited.abs_diff(Duration::from_secs(3)) < Duration::from_millis(10), "{waited:?}");
    }
}
