//! Memory of this process: in use, allowed, and free, in bytes, by the machine and its control groups. `None` where `/proc` does not
//! say: callers then go without.

use std::fs;

use crate::control_group;

/// The resident memory of this process, in bytes (`VmRSS`).
///
/// ```
/// let (resident, allowed) = (machine::memory::resident(), machine::memory::allowed());
/// assert!(resident.unwrap() < allowed.unwrap());
/// ```
#[must_use]
pub fn resident() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS")
}

/// The memory that this process may have, in bytes: the machine's, or the tightest limit of its control groups.
#[must_use]
pub fn allowed() -> Option<u64> {
    [of_machine("MemTotal"), control_group::limit()].into_iter().flatten().min()
}

/// The memory that this process could get without swapping, in bytes: the machine's (`MemAvailable`), or that of its
/// control groups where it is less.
#[must_use]
pub fn free() -> Option<u64> {
    [of_machine("MemAvailable"), control_group::free()].into_iter().flatten().min()
}

fn of_machine(name: &str) -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

/// A line of `/proc/meminfo` or `/proc/self/status`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_in_bytes() {
        let text = "VmSize:\t 9 kB\nVmRSS:\t    2048 kB\nMemAvailableX: 1 kB\nMemAvailable: many\n";
        assert_eq!(field(text, "VmRSS"), Some(2 << 20));
        assert_eq!(field(text, "MemTotal"), None);
        assert_eq!(field(text, "MemAvailable"), None);
    }

    #[test]
    fn this_machine_says_how_much_there_is() {
        let (resident, allowed, free) = (resident().unwrap(), allowed().unwrap(), free().unwrap());
        assert!(resident > 0 && resident < allowed, "{resident} of {allowed}");
        assert!(free <= allowed, "{free} of {allowed}");
    }
}
