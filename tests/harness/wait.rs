//! Waiting for something to be so, with a bound and with a word on how far it was when the time was over.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// As long as anything may take that has no limit of its own. Generous, because the machine may be busy with other tests;
/// what is to be fast has a bound of its own in its test.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(15);

/// What a look found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is so.
    Ready(T),
    /// It is not, and this is how things stand.
    NotYet(String),
}

impl Look<()> {
    /// Ready if `so`, else with this status.
    pub fn when(so: bool, status: impl FnOnce() -> String) -> Self {
        if so { Self::Ready(()) } else { Self::NotYet(status()) }
    }
}

impl Look<()> {
    /// With something for whoever waits.
    pub fn and<T>(self, value: T) -> Look<T> {
        match self {
            Self::Ready(()) => Look::Ready(value),
            Self::NotYet(status) => Look::NotYet(status),
        }
    }
}

/// Looks again and again until it is so; panics with the last status when it is not within `limit`.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Look<T>) -> T {
    let deadline = Instant::now() + limit;
    let mut status = "never had a look".to_owned();
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Look::Ready(value)) => return value,
            Ok(Look::NotYet(now)) => status = now,
            Err(_) => {
                panic!("{what}: not within {limit:?}; a look did not return, the last one said: {status}")
            }
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}; at last: {status}");
        sleep(PAUSE).await;
    }
}

/// Lets so much time pass: for what is promised to hold for a while, or to happen after it. Not for waiting until something
/// has happened, which is what [`until`] is for.
pub async fn longer_than(time: Duration) {
    sleep(time).await;
}
