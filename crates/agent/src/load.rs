//! How busy the machine is, from `/proc`: the share of processor time between two looks, and free memory. What cannot be read counts
//! as zero: load is a hint for placement, never a reason to refuse.

use machine::memory;
use model::Load;

use crate::config::Launcher;

/// Share of processor time in use between two looks.
#[derive(Debug, Default)]
pub(crate) struct Processors {
    last: Option<Times>,
    /// The machine is simulated, and this one's load is not its.
    is_idle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    busy: u64,
    all: u64,
}

/// The first line of `/proc/stat`.
fn parse_times(stat: &str) -> Option<Times> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let mut next = || fields.next().and_then(|f| f.parse::<u64>().ok());
    let (user, nice, system, idle) = (next()?, next()?, next()?, next()?);
    let waiting = next().unwrap_or(0);
    let rest: u64 = std::iter::from_fn(&mut next).take(3).sum();
    let busy = user + nice + system + rest;
    Some(Times { busy, all: busy + idle + waiting })
}

impl Processors {
    fn used(&mut self, stat: &str) -> f64 {
        let Some(now) = parse_times(stat) else { return 0.0 };
        let last = self.last.replace(now).unwrap_or(Times { busy: 0, all: 0 });
        let all = now.all.saturating_sub(last.all);
        if all == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more than a few digits")]
        let share = now.busy.saturating_sub(last.busy) as f64 / all as f64;
        share.clamp(0.0, 1.0)
    }

    /// Those of the machine that has servers started so.
    pub(crate) fn of(launcher: &Launcher) -> Self {
        Self { is_idle: matches!(launcher, Launcher::Simulated(_)), ..Self::default() }
    }

    /// The load since the last call.
    pub(crate) fn load(&mut self) -> Load {
        if self.is_idle {
            return Load::default();
        }
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Load { cpu: self.used(&stat), memory_free_bytes: memory::free().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_the_time_between_two_looks() {
        let mut processors = Processors::default();
        assert!(processors.used("cpu  10 0 10 70 10 0 0 0 0 0\n") - 0.2 < 1e-9);
        assert!((processors.used("cpu  40 5 20 100 10 3 2 0 9 9\n") - 0.625).abs() < 1e-9);
        assert!(processors.used("cpu  40 5 20 100 10 3 2 0 9 9\n").abs() < 1e-9);
        assert!(processors.used("").abs() < 1e-9);
    }
}
