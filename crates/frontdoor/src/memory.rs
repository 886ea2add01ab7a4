//! How much memory this process has, and may have.

use std::path::Path;

/// `VmRSS` of `/proc/self/status`, in bytes.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory of this process that is not swapped out, in bytes.
pub(crate) fn own_memory() -> Option<u64> {
    parse_resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Memory that this process may have, in bytes: the machine's, or the tightest limit of the control groups that it is in.
pub(crate) fn allowed_memory() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| parse_total(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(limit_files).flat_map(|(root, path, file)| {
        let inside = Path::new(root).join(path.trim_start_matches('/'));
        let levels = inside.ancestors().take_while(|level| level.starts_with(root)).map(Path::to_owned);
        levels.filter_map(|level| read(&level.join(file))?.trim().parse::<u64>().ok()).collect::<Vec<_>>()
    });
    machine.into_iter().chain(limits).min()
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn parse_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Where a line of `/proc/self/cgroup` says that limits of memory are: the hierarchy's root, the group, and the file's name.
fn limit_files(line: &str) -> Option<(&'static str, &str, &'static str)> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    if controllers.is_empty() {
        return Some(("/sys/fs/cgroup", path, "memory.max"));
    }
    let memory = controllers.split(',').any(|controller| controller == "memory");
    memory.then_some(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_control_group_is_found_in_both_versions() {
        assert_eq!(limit_files("0::/a/b"), Some(("/sys/fs/cgroup", "/a/b", "memory.max")));
        let old = Some(("/sys/fs/cgroup/memory", "/x", "memory.limit_in_bytes"));
        assert_eq!((limit_files("4:memory:/x"), limit_files("4:cpu,memory:/x")), (old, old));
        assert_eq!((limit_files("3:cpu:/x"), limit_files("")), (None, None));
        assert_eq!(parse_total("MemFree: 1 kB\nMemTotal:   2048 kB\n"), Some(2 << 20));
        assert!(allowed_memory().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn own_memory_is_what_is_resident() {
        assert_eq!(parse_resident("VmSize:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_resident("VmSize: 9 kB\n"), None);
        assert!(own_memory().is_some_and(|bytes| bytes > 0));
    }
}
