//! What the kernel says of processes, from `/proc/PID`.
//!
//! Invariant: a number alone names no process, so callers that act on one compare [`Stat::start`] first. `None` means that it is gone
//! or may not be looked at; callers take that for "not known", never for "not mine".

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of an environment that are read at once.
const ENVIRONMENT: usize = 16 << 10;
/// The kernel gives a process no more for its environment and arguments together.
const MAX_ENVIRONMENT: u64 = 8 << 20;

/// The part of `/proc/PID/stat` that distinguishes a process from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    state: u8,
    pub(crate) group: u32,
    /// When it was started, in ticks since the machine's start.
    pub(crate) start: u64,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The name in parentheses may hold anything, also parentheses.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        Some(Self {
            state: *fields.next()?.as_bytes().first()?,
            group: fields.nth(1)?.parse().ok()?,
            start: fields.nth(16)?.parse().ok()?,
        })
    }

    /// Whether it has ended and only waits to be reaped.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

pub(crate) fn stat(pid: u32) -> Option<Stat> {
    // It is one line of a few hundred bytes, which the kernel makes anew for every read.
    let mut line = [0; 1024];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    Stat::read(&String::from_utf8_lossy(&line[..length]))
}

/// The users a process runs as: real, effective, saved, and for files.
pub(crate) fn uids(pid: u32) -> Option<[u32; 4]> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let uids: Vec<u32> = line.split_ascii_whitespace().filter_map(|uid| uid.parse().ok()).collect();
    uids.try_into().ok()
}

/// Whether a process runs this file, or a script of this path; `None` when that cannot be found out. Waits for the disk of the file.
pub(crate) fn executes(pid: u32, file: &Path) -> Option<bool> {
    let exe = format!("/proc/{pid}/exe");
    let same = || {
        let (running, wanted) = (std::fs::metadata(&exe).ok()?, std::fs::metadata(file).ok()?);
        Some((running.dev(), running.ino()) == (wanted.dev(), wanted.ino()))
    };
    match names(pid, file) {
        Some(true) => Some(true),
        named => same().or(named),
    }
}

/// Whether a process was started from this path, or runs a script of this path; `None` when that cannot be found out. A path that leads
/// there by a link is another one. Does not look at the file, whose disk may hang.
pub(crate) fn names(pid: u32, file: &Path) -> Option<bool> {
    let running = std::fs::read_link(format!("/proc/{pid}/exe"));
    // Another file may have taken its place since.
    let same_path = running
        .as_ref()
        .ok()
        .and_then(|running| running.to_str())
        .is_some_and(|running| Path::new(running.strip_suffix(" (deleted)").unwrap_or(running)) == file);
    // INTERPRETER SCRIPT …
    let script = || {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|b| *b == 0);
        let wanted = file.as_os_str().as_encoded_bytes();
        Some(words.nth(1)? == wanted || words.next()? == wanted)
    };
    let does = same_path || script() == Some(true);
    if !does && running.is_err() { None } else { Some(does) }
}

/// The numbers of all processes.
pub(crate) fn all() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The arguments of a process after its own name.
pub(crate) fn arguments(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    line.split(|b| *b == 0).skip(1).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// Whether a process writes its output to this file; `None` when that cannot be found out.
pub(crate) fn writes_to(pid: u32, file: &Metadata) -> Option<bool> {
    let same = |fd: u8| {
        let open = std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).ok()?;
        Some((open.dev(), open.ino()) == (file.dev(), file.ino()))
    };
    match (same(1), same(2)) {
        (None, None) => None,
        (one, two) => Some(one == Some(true) || two == Some(true)),
    }
}

/// Whether a process writes its output to the file that was at this path and has been removed since.
pub(crate) fn writes_to_removed(pid: u32, path: &Path) -> bool {
    let mut removed = path.as_os_str().to_owned();
    removed.push(" (deleted)");
    outputs(pid).any(|open| open.as_os_str() == removed)
}

/// A variable of the environment that a process was started with.
pub(crate) fn variable(pid: u32, name: &str) -> Option<String> {
    // Into a buffer that holds most environments: the kernel looks into the process's memory for every read.
    let mut environment = Vec::with_capacity(ENVIRONMENT);
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(MAX_ENVIRONMENT).read_to_end(&mut environment).ok()?;
    environment.split(|b| *b == 0).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// The files that a process writes its output and errors to.
pub(crate) fn outputs(pid: u32) -> impl Iterator<Item = PathBuf> {
    [1, 2].into_iter().filter_map(move |fd| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok())
}

/// The children of this process, those of all its threads.
pub(crate) fn children() -> Vec<u32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let rest = "S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9";
        for name in ["sh", "a b", ") Z 1 2", "))"] {
            let stat = Stat::read(&format!("42 ({name}) {rest}")).unwrap();
            assert_eq!((stat.group, stat.start, stat.has_ended()), (77, 123_456, false), "{name:?}");
        }
        assert_eq!(Stat::read("42 (sh) S 1"), None);
        assert_eq!(Stat::read(""), None);
    }

    #[test]
    fn this_process_is_among_all_and_is_alive() {
        let pid = std::process::id();
        assert!(all().any(|p| p == pid));
        assert!(!stat(pid).unwrap().has_ended());
        assert_eq!(uids(pid).unwrap()[1], rustix::process::geteuid().as_raw());
        assert_eq!(executes(pid, &std::env::current_exe().unwrap()), Some(true));
        assert_eq!(executes(pid, Path::new("/bin/sh")), Some(false));
        assert_eq!(executes(0, Path::new("/bin/sh")), None);
        assert_eq!(arguments(pid), std::env::args().skip(1).collect::<Vec<_>>());
    }
}
