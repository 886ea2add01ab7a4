//! A moment in a query: a date and time, or how long ago.

use std::str::FromStr;
use std::time::Duration;

use model::Timestamp;

/// A moment, as a caller writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    At(Timestamp),
    /// So long before the present of the registry's clock.
    Ago(Duration),
}

impl When {
    /// The moment. `now`: the present, by the registry's clock.
    pub(super) fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(age) => now.before(age),
        }
    }
}

impl FromStr for When {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Ok(age) = humantime::parse_duration(s) {
            return Ok(Self::Ago(age));
        }
        // A `+` of an offset arrives as a blank where it was not encoded; times are written in UTC.
        let at = serde_json::from_value(serde_json::Value::String(s.to_owned()));
        at.map(Self::At)
            .map_err(|_| "must be a time in UTC such as 2026-01-31T08:00:00Z, or how long ago, such as 24h")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let now = Timestamp::from_millis(1_767_225_600_000);
        for (text, millis) in [
            ("2026-01-01T00:00:00Z", Some(1_767_225_600_000)),
            ("2026-01-01T00:00:00.123Z", Some(1_767_225_600_123)),
            ("24h", Some(1_767_225_600_000 - 24 * 3_600_000)),
            ("1h 30m", Some(1_767_225_600_000 - 5_400_000)),
            ("0s", Some(1_767_225_600_000)),
            ("", None),
            ("yesterday", None),
            ("24", None),
            ("-1h", None),
            ("2026-01-01", None),
            ("2026-13-01T00:00:00Z", None),
        ] {
            let moment = text.parse::<When>().ok().map(|when| when.moment(now).millis());
            assert_eq!(moment, millis, "{text}");
        }
    }
}
