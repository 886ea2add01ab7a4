//! Counts of each minute of the last day. In Redis every script counts as it goes, see `redis/lua/tally.lua`.

use std::collections::BTreeMap;

use model::minute::{MINUTES_KEPT, minute_of};
use model::{Exit, Minute, Timestamp};

use crate::ask::Counts;

/// The minutes in which something was counted, by their number.
#[derive(Debug, Clone, Default)]
pub(super) struct Minutes(BTreeMap<u64, Minute>);

impl Minutes {
    /// The counts of the minute that `now` is in.
    pub(super) fn at(&mut self, now: Timestamp) -> &mut Minute {
        let number = minute_of(now);
        while self.0.first_key_value().is_some_and(|(first, _)| first + u64::from(MINUTES_KEPT) < number) {
            self.0.pop_first();
        }
        let at = Timestamp::from_millis(number * 60_000);
        self.0.entry(number).or_insert_with(|| Minute { at, ..Minute::default() })
    }

    pub(super) fn ended(&mut self, now: Timestamp, exit: Option<&Exit>) {
        if let Some(exit) = exit {
            *self.at(now).ended.entry(exit.reason).or_default() += 1;
        }
    }

    pub(super) fn count(&mut self, now: Timestamp, counts: &Counts) {
        if counts.refused.is_empty() && counts.slots.is_none() {
            return;
        }
        let minute = self.at(now);
        for (code, count) in &counts.refused {
            *minute.refused.entry((*code).to_owned()).or_default() += count;
        }
        minute.slots = counts.slots.or(minute.slots);
    }

    pub(super) fn last(&self, now: Timestamp, minutes: u32) -> Vec<Minute> {
        let last = minute_of(now);
        let first = (last + 1).saturating_sub(minutes.clamp(1, MINUTES_KEPT).into());
        self.0.range(first..=last).map(|(_, minute)| minute.clone()).collect()
    }
}
