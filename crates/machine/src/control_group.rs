//! The memory limits of this process's control groups, versions 1 and 2.
//!
//! A group's limit holds for all groups below it. So every level from the process's own group up to the root counts, and
//! the tightest decides. The inactive page cache can be reclaimed at once, so it counts as free.
//!
//! Files and their meaning: `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst` of the Linux kernel.

use std::fs;
use std::path::{Path, PathBuf};

/// The files of one version of control groups.
struct Files {
    limits: &'static [&'static str],
    used: &'static str,
    /// The line of `memory.stat` with the inactive page cache.
    reclaimable: &'static str,
}

const V2: Files =
    Files { limits: &["memory.max", "memory.high"], used: "memory.current", reclaimable: "inactive_file" };
const V1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

/// The least free memory of any level, in bytes; `None` without a limit.
pub(crate) fn free() -> Option<u64> {
    least(left)
}

/// The tightest limit of any level, in bytes; `None` without one.
pub(crate) fn limit() -> Option<u64> {
    least(level_limit)
}

fn least(of_level: impl Fn(&Path, &Files) -> Option<u64>) -> Option<u64> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    levels(&mounts, &groups).iter().filter_map(|(dir, files)| of_level(dir, files)).min()
}

/// The directory of every level that this process is in, with the files it has.
fn levels(mounts: &str, groups: &str) -> Vec<(PathBuf, &'static Files)> {
    let mut levels = Vec::new();
    for line in groups.lines() {
        // ID:CONTROLLERS:PATH, where version 2 has no controllers.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let files = match controllers {
            "" => &V2,
            _ if controllers.split(',').any(|one| one == "memory") => &V1,
            _ => continue,
        };
        let Some((root, point)) = mount(mounts, controllers.is_empty()) else { continue };
        // In a container the mount may show only what is below its own root.
        let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(path));
        let below = below.strip_prefix("/").unwrap_or(below);
        let dir = point.join(below);
        let up = dir.ancestors().take_while(|dir| dir.starts_with(&point)).map(Path::to_owned);
        levels.extend(up.map(|dir| (dir, files)));
    }
    levels
}

/// The root of the mounted part of the hierarchy, and its mount point.
fn mount(mounts: &str, v2: bool) -> Option<(PathBuf, PathBuf)> {
    // ID PARENT DEVICE ROOT MOUNT-POINT OPTIONS… - TYPE SOURCE SUPER-OPTIONS
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1).unwrap_or_default());
        let wanted = match v2 {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|one| one == "memory"),
        };
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        wanted.then(|| (PathBuf::from(root), PathBuf::from(point)))
    })
}

/// The number in a file; `None` for `max`.
fn number(dir: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

/// The limit of one level.
fn level_limit(dir: &Path, files: &Files) -> Option<u64> {
    files.limits.iter().filter_map(|name| number(dir, name)).min()
}

/// The free memory of one level; `None` without a limit.
fn left(dir: &Path, files: &Files) -> Option<u64> {
    let limit = level_limit(dir, files)?;
    let used = number(dir, files.used)?;
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat.lines().find_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        (name == files.reclaimable).then(|| bytes.trim().parse::<u64>().ok())?
    });
    Some(limit.saturating_sub(used.saturating_sub(reclaimable.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn write(dir: &Path, files: &[(&str, String)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    fn least(mounts: &str, groups: &str) -> Option<u64> {
        levels(mounts, groups).iter().filter_map(|(dir, files)| left(dir, files)).min()
    }

    fn tightest(mounts: &str, groups: &str) -> Option<u64> {
        levels(mounts, groups).iter().filter_map(|(dir, files)| level_limit(dir, files)).min()
    }

    #[test]
    fn the_tightest_level_decides() {
        let root = tempfile::tempdir().unwrap();
        let point = root.path().to_str().unwrap();
        let mounts = format!("30 23 0:26 / {point} rw,nosuid - cgroup2 cgroup2 rw\n");
        let groups = "0::/a/b/c\n";
        assert_eq!(least(&mounts, groups), None, "no limit anywhere");
        let level = |path: &str, max: &str, high: &str, current: u64, inactive: u64| {
            let stat = format!("anon 1\ninactive_anon 9999999999\ninactive_file {inactive}\n");
            write(
                &root.path().join(path),
                &[
                    ("memory.max", format!("{max}\n")),
                    ("memory.high", format!("{high}\n")),
                    ("memory.current", format!("{current}\n")),
                    ("memory.stat", stat),
                ],
            );
        };
        level("a/b/c", "max", "max", 10 * MIB, 0);
        assert_eq!(least(&mounts, groups), None);
        level("a/b", &(100 * MIB).to_string(), "max", 60 * MIB, 20 * MIB);
        assert_eq!(least(&mounts, groups), Some(60 * MIB));
        level("a", &(900 * MIB).to_string(), &(80 * MIB).to_string(), 70 * MIB, 0);
        assert_eq!(least(&mounts, groups), Some(10 * MIB), "the level above, and its soft limit");
        assert_eq!(tightest(&mounts, groups), Some(80 * MIB));
        level("a", "max", &(80 * MIB).to_string(), 99 * MIB, 0);
        assert_eq!(least(&mounts, groups), Some(0), "more than its limit");
    }

    #[test]
    fn a_container_sees_its_own_groups_as_the_root() {
        let root = tempfile::tempdir().unwrap();
        let point = root.path().to_str().unwrap();
        let files = [("memory.max", (50 * MIB).to_string()), ("memory.current", (20 * MIB).to_string())];
        write(root.path(), &files);
        let mounts = format!("30 23 0:26 /docker/x {point} ro - cgroup2 cgroup rw\n");
        assert_eq!(least(&mounts, "0::/docker/x\n"), Some(30 * MIB));
        let mounts = format!("30 23 0:26 / {point} ro - cgroup2 cgroup rw\n");
        assert_eq!(least(&mounts, "0::/\n"), Some(30 * MIB));
    }

    #[test]
    fn the_first_version_of_control_groups_counts_too() {
        let root = tempfile::tempdir().unwrap();
        let point = root.path().to_str().unwrap();
        let dir = root.path().join("docker/x");
        write(
            &dir,
            &[
                ("memory.limit_in_bytes", (100 * MIB).to_string()),
                ("memory.usage_in_bytes", (70 * MIB).to_string()),
                ("memory.stat", format!("inactive_file 1\ntotal_inactive_file {}\n", 10 * MIB)),
            ],
        );
        let mounts = format!(
            "31 23 0:27 / /nowhere rw - cgroup cgroup rw,cpu,cpuacct\n32 23 0:28 / {point} rw - cgroup cgroup rw,memory\n"
        );
        let groups = "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/docker/x\n";
        assert_eq!(least(&mounts, groups), Some(40 * MIB));
        assert_eq!(tightest(&mounts, groups), Some(100 * MIB));
    }
}
