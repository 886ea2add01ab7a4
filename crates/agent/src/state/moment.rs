//! Points in time that mean the same to the next agent: since the machine's start, not by a clock that may be set.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::simulated::Machine;

/// Milliseconds since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Reads moments, and what they are to this process.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// Names this run of the machine: moments of another one mean nothing.
    boot: String,
    /// Where the machine is simulated.
    simulated: Option<Arc<dyn Machine>>,
}

impl Clock {
    pub(crate) fn new() -> io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self { boot: boot.trim().to_owned(), simulated: None })
    }

    /// The clock of a simulated machine.
    pub(crate) fn simulated(machine: Arc<dyn Machine>) -> Self {
        Self { boot: machine.boot(), simulated: Some(machine) }
    }

    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    pub(crate) fn now(&self) -> Moment {
        if let Some(machine) = &self.simulated {
            return Moment(millis(machine.since_boot()));
        }
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Moment(seconds.saturating_mul(1000) + nanos / 1_000_000)
    }

    /// A moment as this process's timers have it.
    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        let (now, at) = (self.now(), Instant::now());
        if moment >= now { at + moment.since(now) } else { at.checked_sub(now.since(moment)).unwrap_or(at) }
    }

    /// The other way round.
    pub(crate) fn moment(&self, instant: Instant) -> Moment {
        let (now, at) = (self.now(), Instant::now());
        if instant >= at {
            now.after(instant - at)
        } else {
            Moment(now.0.saturating_sub(millis(at - instant)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_instant_and_back() {
        let clock = Clock::new().unwrap();
        assert_eq!(clock.boot().len(), 36);
        let now = clock.now();
        for moment in [now, now.after(Duration::from_secs(30)), Moment(now.0 - 500)] {
            let back = clock.moment(clock.instant(moment));
            assert!(back.0.abs_diff(moment.0) <= 20, "{moment:?} {back:?}");
        }
        assert_eq!(now.since(now.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
