//! Bounds the log lines about callers without a good credential: a burst, then one a second for each reason. Metrics count all of
//! them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::DenialReason;

/// Lines of one reason at once.
const BURST: u32 = 10;
/// After the burst, one more line each time this has passed.
const EVERY: Duration = Duration::from_secs(1);

/// How many refused credentials were logged, by reason: one reason does not use up the lines of another.
#[derive(Debug, Default)]
pub struct DenialLog(Mutex<HashMap<DenialReason, Budget>>);

#[derive(Debug)]
struct Budget {
    lines: u32,
    /// Up to when lines were added.
    filled: Instant,
    /// Refusals without a line since the last one that had one.
    left_out: u64,
}

impl DenialLog {
    /// Takes the line of a refusal at `now`. Returns the number of refusals before it that had none, or `None` when this one gets none.
    pub fn line(&self, reason: DenialReason, now: Instant) -> Option<u64> {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = budgets.entry(reason).or_insert(Budget { lines: BURST, filled: now, left_out: 0 });
        let passed = now.saturating_duration_since(budget.filled).as_millis() / EVERY.as_millis();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            budget.lines = budget.lines.saturating_add(passed).min(BURST);
            budget.filled = now;
        }
        if budget.lines == 0 {
            budget.left_out += 1;
            return None;
        }
        budget.lines -= 1;
        Some(std::mem::take(&mut budget.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_few_lines_and_each_says_how_many_were_left_out() {
        let denials = DenialLog::default();
        let now = Instant::now();
        let lines = |reason, at| (0..1000).filter_map(|_| denials.line(reason, at)).collect::<Vec<_>>();
        assert_eq!(lines(DenialReason::WrongSecret, now), [0; 10]);
        assert_eq!(lines(DenialReason::Malformed, now).len(), 10, "another reason has lines of its own");
        assert_eq!(lines(DenialReason::WrongSecret, now + EVERY), [990]);
        assert_eq!(lines(DenialReason::WrongSecret, now + EVERY * 100)[..2], [999, 0]);
    }
}
