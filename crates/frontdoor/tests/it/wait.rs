//! Waiting for a level, with a bound and a status.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Asks until the answer suits; fails with the last answer when that takes too long.
pub(crate) async fn until<T: Debug>(mut ask: impl AsyncFnMut() -> T, suits: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = ask().await;
        if suits(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "still {answer:?} after 10 s");
        sleep(Duration::from_millis(2)).await;
    }
}
