//! A real limit of a process's memory: a control group of version 1 or 2 below the one that this test runs in.

use std::fs;
use std::path::{Path, PathBuf};

use crate::processes::memory;

/// A control group with a limit. Dropping it removes it, once its processes have ended.
#[derive(Debug)]
pub struct MemoryLimit {
    group: PathBuf,
    peak: &'static str,
}

impl MemoryLimit {
    /// Limits this process from now on to so many bytes, with what it takes already.
    ///
    /// # Errors
    /// Why this machine has no such limit to give.
    pub fn of(pid: u32, bytes: u64) -> Result<Self, String> {
        let (parent, is_v2) = own_group().ok_or("no memory controller is mounted")?;
        let group = parent.join(format!("hatchery-limit-{pid}"));
        let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
        fs::create_dir(&group).map_err(|error| failed(&group, error))?;
        let (limit, swap, peak) = match is_v2 {
            true => ("memory.max", "memory.swap.max", "memory.peak"),
            false => ("memory.limit_in_bytes", "memory.swappiness", "memory.max_usage_in_bytes"),
        };
        let limited = Self { group, peak };
        // What a process has taken before stays on the account of its last group.
        let left = bytes.saturating_sub(memory(pid, "VmRSS"));
        let write = |name: &str, value: String| {
            let file = limited.group.join(name);
            fs::write(&file, value).map_err(|error| failed(&file, error))
        };
        write(limit, left.to_string())?;
        // A machine without swap may lack it.
        write(swap, "0".to_owned()).ok();
        write("cgroup.procs", pid.to_string())?;
        Ok(limited)
    }

    /// The most that was on its account at a time, in bytes, where the kernel says so.
    pub fn peak(&self) -> Option<u64> {
        fs::read_to_string(self.group.join(self.peak)).ok()?.trim().parse().ok()
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        fs::remove_dir(&self.group).ok();
    }
}

/// The directory of this process's own group with a memory controller, and whether it is of version 2.
fn own_group() -> Option<(PathBuf, bool)> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let path_of = |controllers: &dyn Fn(&str) -> bool| {
        let mut words = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        words.find(|(of, _)| controllers(of)).map(|(_, path)| path.trim_start_matches('/').to_owned())
    };
    let mount_of = |kind: &str, option: &str| {
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        lines
            .find(|words| words[2] == kind && words[3].split(',').any(|word| word == option))
            .map(|words| PathBuf::from(words[1]))
    };
    let v1 = |of: &str| of.split(',').any(|word| word == "memory");
    if let (Some(mount), Some(path)) = (mount_of("cgroup", "memory"), path_of(&v1)) {
        return Some((mount.join(path), false));
    }
    let group = mount_of("cgroup2", "rw")?.join(path_of(&|of| of.is_empty())?);
    // Children of a group have only the controllers that it passes on.
    let passed_on = fs::read_to_string(group.join("cgroup.subtree_control")).ok()?;
    passed_on.split_whitespace().any(|word| word == "memory").then_some((group, true))
}
