//! Judging silence: a registry that judges heartbeats must have been there to receive them.
//!
//! The registry notes when it last judged. Front doors make it judge about once a second. When much more than that has
//! passed (the registry was stopped, no front door asked, its clock was set), or time went backwards, the silence of nodes
//! counts from now: [`Judgement::grace`]. Without this rule, a stalled registry would call every node down at once.
//! `redis/lua/judge.lua` is the same in Redis.

use model::{Timestamp, Timing};

/// When heartbeats were last judged, and the moment from which silence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Judgement {
    /// When the registry last judged; `None` before the first time.
    pub(crate) at: Option<Timestamp>,
    /// The moment from which silence counts.
    pub(crate) grace: Timestamp,
}

impl Judgement {
    /// Whether the last judgement is so long before `now` that silence says nothing.
    fn was_away(self, now: Timestamp, timing: &Timing) -> bool {
        self.at.is_none_or(|at| now < at || now.since(at) > timing.stale * 2 / 3) || self.grace > now
    }

    /// Notes that the registry judges now. Returns the moment from which silence counts.
    pub(crate) fn judge(&mut self, now: Timestamp, timing: &Timing) -> Timestamp {
        if self.was_away(now, timing) {
            self.grace = now;
        }
        self.at = Some(now);
        self.grace
    }

    /// Whether a node with this last heartbeat is silent, for readers, which note nothing.
    pub(crate) fn is_silent(self, beat: Timestamp, now: Timestamp, timing: &Timing) -> bool {
        !self.was_away(now, timing) && now.since(beat.max(self.grace)) >= timing.stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    #[test]
    fn a_judge_that_was_away_waits_for_a_whole_interval() {
        let timing = Timing::FARM;
        let mut judged = Judgement::default();
        assert!(!judged.is_silent(at(0), at(60_000), &timing), "no judge has been there");
        assert_eq!(judged.judge(at(0), &timing), at(0));
        for second in 1..=3 {
            assert_eq!(judged.judge(at(second * 1_000), &timing), at(0));
        }
        assert!(judged.is_silent(at(0), at(3_000), &timing));
        assert!(!judged.is_silent(at(0), at(17_000), &timing), "after a stall of 14 s");
        assert_eq!(judged.judge(at(17_000), &timing), at(17_000));
        assert!(!judged.is_silent(at(0), at(18_000), &timing));
        for second in 18..=20 {
            judged.judge(at(second * 1_000), &timing);
        }
        assert!(judged.is_silent(at(0), at(20_000), &timing), "one that is dead is seen one interval later");
        assert_eq!(judged.judge(at(10_000), &timing), at(10_000), "time went backwards");
    }
}
