//! The farm's cause: why starts fail on every node alike.
//!
//! A cause is a suspicion after the first request that failed in the same way wherever it was tried, and established after
//! three within a minute. A success anywhere ends it; without news it lapses after ten minutes.

use std::collections::HashMap;
use std::time::Duration;

use model::{FarmCause, Timestamp};

/// This many requests in a row establish a cause.
const REQUESTS: u32 = 3;
/// They come within this time.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// A cause without news for this long is over.
const MEMORY: Duration = Duration::from_secs(600);

/// Requests that failed alike everywhere. `redis/lua/learn.lua` keeps the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    reason: String,
    since: Timestamp,
    last: Timestamp,
    requests: u32,
}

impl Cause {
    /// One more such request.
    pub(crate) fn add(before: Option<Self>, reason: &str, now: Timestamp) -> Self {
        match before.filter(|before| before.is_current(now)) {
            Some(before) => Self {
                reason: reason.to_owned(),
                since: before.since,
                last: now,
                requests: before.requests.saturating_add(1),
            },
            None => Self { reason: reason.to_owned(), since: now, last: now, requests: 1 },
        }
    }

    /// Reads the fields of the Redis hash `cause`; `None` when one is missing or malformed.
    pub(crate) fn from_fields(fields: &HashMap<String, String>) -> Option<Self> {
        let time = |field: &str| fields.get(field)?.parse().ok().map(Timestamp::from_millis);
        Some(Self {
            reason: fields.get("reason")?.clone(),
            since: time("since")?,
            last: time("last")?,
            requests: fields.get("requests")?.parse().ok()?,
        })
    }

    /// Whether the cause, or the suspicion, has not lapsed.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        let (from, keep) = if self.requests >= REQUESTS { (self.last, MEMORY) } else { (self.since, WITHIN) };
        now.since(from).max(from.since(now)) <= keep
    }

    /// The cause, when it is established and has not lapsed.
    pub(crate) fn established(self, now: Timestamp) -> Option<FarmCause> {
        let is = self.requests >= REQUESTS && self.is_current(now);
        is.then_some(FarmCause { reason: self.reason, since: self.since, requests: self.requests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    fn after(seconds: &[u64]) -> Cause {
        let cause = seconds.iter().fold(None, |cause, s| Some(Cause::add(cause, "no licence", at(*s))));
        cause.unwrap()
    }

    #[test]
    fn three_requests_within_a_minute_make_a_cause_that_lapses_after_ten() {
        assert_eq!(after(&[0, 30]).established(at(30)), None);
        let cause = after(&[0, 30, 60]).established(at(60)).unwrap();
        assert_eq!((cause.reason.as_str(), cause.since, cause.requests), ("no licence", at(0), 3));
        assert_eq!(after(&[0, 30, 61]).established(at(61)), None, "the first is too old");
        assert!(after(&[0, 1, 2, 500]).established(at(1_100)).is_some(), "news keep it");
        assert_eq!(after(&[0, 1, 2, 500]).established(at(1_101)), None);
        assert!(!after(&[0]).is_current(at(61)));
    }
}
