//! How busy the machine is, from `/proc`.

use model::Load;

use crate::memory_limit;

/// Share of processor time in use between two looks.
#[derive(Debug, Default)]
pub(crate) struct Processors {
    last: Option<Times>,
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

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory that could be had without swapping, in bytes: what the machine has, or less where a control group that this process is
/// in has less. `None` when the machine does not say.
pub(crate) fn free_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_available(&text));
    [machine, memory_limit::free()].into_iter().flatten().min()
}

/// `VmRSS` of `/proc/self/status`, in bytes.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory of this process that is not swapped out, in bytes.
pub(crate) fn own_memory() -> Option<u64> {
    parse_resident(&std::fs::read_to_string("/proc/self/status").ok()?)
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

    /// The load since the last call.
    pub(crate) fn load(&mut self) -> Load {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Load { cpu: self.used(&stat), memory_free_bytes: free_memory().unwrap_or(0) }
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

    #[test]
    fn free_memory_is_what_is_available() {
        assert_eq!(
            parse_available("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(parse_available("MemTotal: 9 kB\n"), None);
        assert!(free_memory().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn own_memory_is_what_is_resident() {
        assert_eq!(parse_resident("VmSize:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_resident("VmSize: 9 kB\n"), None);
        assert!(own_memory().is_some_and(|bytes| bytes > 0));
    }
}
