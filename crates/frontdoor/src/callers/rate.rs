//! A rate of anything that costs time, as one moment (generic cell rate algorithm): no task, no timer, and nothing to clean up. The
//! caller brings the clock and the lock.

use std::time::Duration;

use tokio::time::Instant;

/// A rate limit: when what was taken so far would have been due, had it come evenly (generic cell rate algorithm).
#[derive(Debug, Default)]
pub(crate) struct Rate(pub(super) Option<Instant>);

impl Rate {
    /// Takes `cost` unless that runs further ahead than `ahead`; the error says how long to wait.
    pub(crate) fn take(&mut self, now: Instant, cost: Duration, ahead: Duration) -> Result<(), Duration> {
        let next = self.0.filter(|due| *due > now).unwrap_or(now) + cost;
        let wait = next.saturating_duration_since(now + ahead);
        if wait.is_zero() {
            self.0 = Some(next);
            Ok(())
        } else {
            Err(wait)
        }
    }

    /// Notes what was taken already; how long to wait before more is taken, at most `max_wait`.
    pub(super) fn charge(
        &mut self,
        now: Instant,
        cost: Duration,
        ahead: Duration,
        max_wait: Duration,
    ) -> Duration {
        let next = self.0.filter(|due| *due > now).unwrap_or(now) + cost;
        let next = next.min(now + ahead + max_wait);
        self.0 = Some(next);
        next.saturating_duration_since(now + ahead)
    }
}
