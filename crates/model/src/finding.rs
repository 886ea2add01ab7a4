//! What an examination of a set-up found, for people and programs: `hatchery doctor` prints it.

use std::time::Duration;

use serde::Serialize;

use crate::words::words;

/// How good or bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// It works, and an operator should look at it.
    Warning,
    /// It does not work, or will not when it is needed.
    Problem,
}

words!(Level { Ok = "ok", Warning = "warning", Problem = "problem" });

/// One finding. No text of it holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a stable word for programs, such as `registry-eviction`.
    pub check: &'static str,
    /// How good or bad it is.
    pub level: Level,
    /// What was found, as a sentence for people.
    pub found: String,
    /// Why it matters; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    /// It is as it should be.
    #[must_use]
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), why: None, advice: None }
    }

    /// It works, and an operator should look at it.
    #[must_use]
    pub fn warning(
        check: &'static str,
        found: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::bad(check, Level::Warning, found, why, advice)
    }

    /// It does not work, or will not when it is needed.
    #[must_use]
    pub fn problem(
        check: &'static str,
        found: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::bad(check, Level::Problem, found, why, advice)
    }

    /// One of either level.
    #[must_use]
    pub fn bad(
        check: &'static str,
        level: Level,
        found: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check, level, found: found.into(), why: Some(why.into()), advice: Some(advice.into()) }
    }
}

/// A clock that differs by less is right, as far as can be seen: times are rounded to seconds on the way.
const CLOCK_OK: Duration = Duration::from_secs(5);
/// Tokens are refused when clocks differ by more than their leeway of 30 s, and certificates that were just made are not valid yet.
const CLOCK_WRONG: Duration = Duration::from_secs(30);

/// Judges how far `other` is ahead of (or, if negative, behind) this machine's clock, in milliseconds.
#[must_use]
pub fn clock(check: &'static str, other: &str, ahead_millis: i64) -> Finding {
    let off = Duration::from_millis(ahead_millis.unsigned_abs());
    if off < CLOCK_OK {
        return Finding::ok(
            check,
            format!("the clocks of {other} and this machine agree within {} s", CLOCK_OK.as_secs()),
        );
    }
    let side = if ahead_millis > 0 { "ahead of" } else { "behind" };
    let level = if off < CLOCK_WRONG { Level::Warning } else { Level::Problem };
    let found = format!("the clock of {other} is {} s {side} this machine's", off.as_secs());
    let why = "the farm itself counts by one clock alone, but tokens and certificates are judged by each machine's own: they expire \
               too early or are not valid yet";
    Finding::bad(
        check,
        level,
        found,
        why,
        "have NTP (chrony, systemd-timesyncd) set the clock of the machine that is wrong",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_an_object_without_what_is_absent() {
        let json = |finding: &Finding| serde_json::to_value(finding).unwrap();
        assert_eq!(
            json(&Finding::ok("ports", "100 ports are free")),
            serde_json::json!({"check": "ports", "level": "ok", "found": "100 ports are free"}),
        );
        assert_eq!(
            json(&Finding::problem("ports", "none is free", "nothing starts", "choose others")),
            serde_json::json!({"check": "ports", "level": "problem", "found": "none is free",
                "why": "nothing starts", "advice": "choose others"}),
        );
        for (ahead, level, words) in [
            (0, Level::Ok, "agree"),
            (-4999, Level::Ok, "agree"),
            (6000, Level::Warning, "6 s ahead of"),
            (-29_000, Level::Warning, "29 s behind"),
            (40_000, Level::Problem, "40 s ahead of"),
            (i64::MIN, Level::Problem, "behind"),
        ] {
            let finding = clock("clock", "the front door", ahead);
            assert_eq!(finding.level, level, "{ahead}");
            assert!(finding.found.contains(words), "{}", finding.found);
        }
        assert!(Level::Problem > Level::Warning && Level::Warning > Level::Ok);
    }
}
