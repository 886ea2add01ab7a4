//! How much memory this process has.

/// `VmRSS` of `/proc/self/status`, in bytes.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory of this process that is not swapped out, in bytes.
pub(crate) fn own_memory() -> Option<u64> {
    parse_resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_what_is_resident() {
        assert_eq!(parse_resident("VmSize:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_resident("VmSize: 9 kB\n"), None);
        assert!(own_memory().is_some_and(|bytes| bytes > 0));
    }
}
