//! The processes of a farm as the operating system sees them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::guard::MARK;

/// The line of `/proc/PID/status` that begins with this word, without it.
pub fn status(pid: u32, word: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(word)).expect("the kernel tells it");
    line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect()
}

/// The memory of a process, in bytes: `VmRSS` is what it has now, `VmHWM` the most that it has had at once.
pub fn memory(pid: u32, word: &str) -> u64 {
    let words = status(pid, word);
    let kib: u64 = words[0].parse().expect("a number of kibibytes");
    kib * 1024
}

/// A process that belongs to a farm: it carries the farm's mark in its environment.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The number of its group.
    pub group: u32,
    /// Its arguments, the program's name first.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
}

impl Process {
    /// The name of its program.
    pub fn program(&self) -> &str {
        let name = self.args.first().map_or("", String::as_str);
        name.rsplit('/').next().unwrap_or(name)
    }

    /// The path, without the id, that a spawn was told to report to.
    pub fn reports_to(&self) -> String {
        let url = self.option("--liveliness-endpoint").expect("a spawn's process");
        let (_, path) = url.strip_prefix("http://").and_then(|url| url.split_once('/')).expect("a URL");
        format!("/{path}")
    }

    /// The argument that follows `option`.
    pub fn option(&self, option: &str) -> Option<&str> {
        let at = self.args.iter().position(|arg| arg == option)?;
        self.args.get(at + 1).map(String::as_str)
    }
}

/// All processes with this mark, those that wait to be reaped not included.
pub fn marked(mark: &Path) -> Vec<Process> {
    let mark = mark.to_str().expect("a scratch directory has a plain name");
    let all = fs::read_dir("/proc").expect("there is /proc");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(look).filter(|process| process.env.get(MARK).is_some_and(|m| m == mark)).collect()
}

/// Whether a process is there, dead ones that wait to be reaped included.
pub fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Children of `pid` that have ended and were not reaped.
pub fn zombies_of(pid: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("there is /proc");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| stat(*child).is_some_and(|s| s.state == 'Z' && s.parent == pid)).collect()
}

/// Sends a signal to one process; it may have ended already.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = number(pid) {
        kill_process(pid, signal).ok();
    }
}

/// Ends all processes with this mark, with their groups, and what they start meanwhile.
pub fn end_all(mark: &Path) {
    for _ in 0..50 {
        let left = marked(mark);
        if left.is_empty() {
            return;
        }
        for process in left {
            if process.group == process.pid
                && let Some(group) = number(process.group)
            {
                kill_process_group(group, Signal::KILL).ok();
            }
            signal(process.pid, Signal::KILL);
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

/// Ends every spawn of a node, as the end of its machine does.
pub fn end_all_of(farm: &crate::Farm, node: &str) {
    let reports_to = format!("{}/", farm.agent(node).liveliness.addr);
    for process in farm.processes() {
        if process.option("--liveliness-endpoint").is_some_and(|url| url.contains(&reports_to))
            && let Some(group) = number(process.group)
        {
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

fn number(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

struct Stat {
    state: char,
    parent: u32,
    group: u32,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

fn look(pid: u32) -> Option<Process> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let env = strings(&fs::read(directory.join("environ")).ok()?);
    if !env.iter().any(|variable| variable.starts_with(MARK)) {
        return None;
    }
    let env =
        env.iter().filter_map(|v| v.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let args = strings(&fs::read(directory.join("cmdline")).ok()?);
    Some(Process { pid, group: stat(pid)?.group, args, env })
}

fn strings(bytes: &[u8]) -> Vec<String> {
    bytes
        .strip_suffix(b"\0")
        .unwrap_or(bytes)
        .split(|b| *b == 0)
        .map(|part| OsString::from_vec(part.to_vec()).to_string_lossy().into_owned())
        .collect()
}
