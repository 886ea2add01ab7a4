//! What a report changes of what a record says of its spawn's viewer and of its life. `redis/lua/apply.lua` does the same.
//!
//! A record keeps the first time that was reported: ages are rounded, and the same moment comes out a little different each time.

use std::time::Duration;

use model::Timestamp;

use crate::report::SpawnReport;

/// Times that differ by less are the same one.
const SAME: Duration = Duration::from_secs(1);

/// When a viewer came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Viewing {
    pub(crate) connected: Option<Timestamp>,
    pub(crate) disconnected: Option<Timestamp>,
}

impl Viewing {
    /// As an agent reports it now.
    pub(crate) fn reported(spawn: &SpawnReport, now: Timestamp) -> Self {
        let at = |age: Option<Duration>| age.map(|age| now.before(age));
        Self { connected: at(spawn.connected), disconnected: at(spawn.disconnected) }
    }

    fn is_on(self) -> bool {
        self.connected.is_some() && self.disconnected.is_none()
    }

    /// What the record says after this report, and whether a viewer has come.
    pub(crate) fn after(self, report: Self) -> (Self, bool) {
        if report.connected.is_none() {
            return (self, false);
        }
        match (self.is_on(), report.is_on()) {
            (true, true) => (self, false),
            (false, true) => (report, true),
            (true, false) => (Self { connected: self.connected, ..report }, false),
            (false, false) if self.connected.is_some() => (self, false),
            (false, false) => (report, false),
        }
    }
}

/// When a spawn is ended at the latest, by the record and by a report.
pub(crate) fn expiry(known: Option<Timestamp>, report: Option<Timestamp>) -> Option<Timestamp> {
    match (known, report) {
        (Some(known), Some(report)) if known.since(report).max(report.since(known)) < SAME => Some(known),
        (known, report) => report.or(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewing(connected: Option<u64>, disconnected: Option<u64>) -> Viewing {
        let at = |at: Option<u64>| at.map(Timestamp::from_millis);
        Viewing { connected: at(connected), disconnected: at(disconnected) }
    }

    #[test]
    fn a_viewer_comes_once_and_goes_once() {
        let (never, on, off) = (viewing(None, None), viewing(Some(10), None), viewing(Some(10), Some(20)));
        for (known, report, after, came) in [
            (never, never, never, false),
            (never, on, on, true),
            (on, viewing(Some(11), None), on, false),
            (on, viewing(Some(11), Some(20)), off, false),
            (off, viewing(Some(11), Some(21)), off, false),
            // One that the agent does not know of any more.
            (off, never, off, false),
            (on, never, on, false),
            (never, off, off, false),
            // Another one.
            (off, viewing(Some(30), None), viewing(Some(30), None), true),
        ] {
            assert_eq!(known.after(report), (after, came), "{known:?} {report:?}");
        }
    }

    #[test]
    fn an_expiry_changes_only_by_more_than_rounding() {
        let at = Timestamp::from_millis;
        for (known, report, after) in [
            (None, None, None),
            (None, Some(5), Some(5)),
            (Some(5), None, Some(5)),
            (Some(5000), Some(5900), Some(5000)),
            (Some(5000), Some(6000), Some(6000)),
            (Some(6000), Some(4000), Some(4000)),
        ] {
            assert_eq!(expiry(known.map(at), report.map(at)), after.map(at), "{known:?} {report:?}");
        }
    }
}
